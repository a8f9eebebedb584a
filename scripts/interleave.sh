#!/bin/sh
# Two threads on one image: one of them is stopped at every point of its request while the other one goes on (test/interleave). The
# file as a kill would leave it there, the disk, and the closed image are judged. Says how many situations passed.
set -eu
usage='usage: interleave.sh [--step N]
  --step N  only one of N points of each request (default: see test/support/slices.ts)'
step=
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh '^ *Tests ' SLICE=long SLICE_POINTS="$step" -- test/interleave
