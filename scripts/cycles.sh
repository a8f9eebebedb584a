#!/bin/sh
# Cycles of mount, write, plain umount and at once qemu-img check: the promise that the image is closed and clean when umount
# returns (test/mount/cycles.sh, in a mount namespace of its own). VHD, which qemu-img cannot check, is checked by imgfuse. Needs
# root and qemu-img. Prints the number of cycles; one that is not clean ends it with exit code 1.
set -eu
usage='usage: cycles.sh [--runs N] [--seed S]
  --runs N   cycles, QED, qcow2, VDI, VHD, VMDK, VHDX and Parallels in turn (default: see test/support/slices.ts)
  --seed S   the same writes again (default: others each time, printed)'
runs= seed=$(($(date +%s) % 30000))
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh '^cycles of' SLICE=long SLICE_CYCLES="$runs" SEED="$seed" -- test/mount/cycles.test.ts
