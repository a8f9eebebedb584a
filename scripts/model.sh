#!/bin/sh
# Random operations on images in memory against a plain byte array: tiny clusters, every kind of table boundary, closed, checked
# and opened again; the first images of each kind are judged by qemu-img check and compare too (test/model/random-operations.ts).
# Prints for each format: operations, images, images on which qemu-img agrees, and which they were; a difference ends it with exit
# code 1.
set -eu
usage='usage: model.sh [--images N] [--judged N] [--format F] [--seed S] [--first N] [--jobs N]
  --images N   for each of 33 kinds of image, with 20 operations each on average (default: see test/support/slices.ts)
  --judged N   of these, how many qemu-img sees (default: see there)
  --format F   only raw, qed, qcow2, qcow, vdi, vmdk, vpc or vhdx
  --seed S     the same operations again (default: others each time, printed)
  --first N    begin with hundred N of the images of the seed, where another run has ended
  --jobs N     processes that run them (default: 1)'
images= judged= format= seed=$(date +%s) first=0 jobs=1
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh ': [0-9][0-9]* operations on ' SLICE=long SLICE_MODEL="$images" \
  SLICE_JUDGED="$judged" MODEL_FORMAT="$format" MODEL_FIRST="$first" PROOF_JOBS="$jobs" SEED="$seed" -- --passWithNoTests test/model/random-operations-
