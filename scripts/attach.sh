#!/bin/sh
# Attach and detach, many times over, and killed at random moments: the command that attaches, the one that detaches, the process of
# the mount. After each run nothing may be left, no loop device, mount or process, and the guest's file system must be sound
# (test/mount/attach-cycles.test.ts). Needs root and Debian's packages of scripts/test.sh. Prints how many runs there were; one
# that leaves something ends with exit code 1.
set -eu
usage='usage: attach.sh [--cycles N] [--kills N] [--seed S]
  --cycles N  attach, write, detach, over ext4, xfs and btrfs (default: see test/support/slices.ts)
  --kills N   kills at random moments (default: see test/support/slices.ts)
  --seed S    the same moments again (default: others each time, printed)'
cycles= kills= seed=$(date +%s)
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh '^attach cycles\|^attach kills' SLICE=long SLICE_ATTACHCYCLES="$cycles" SLICE_ATTACHKILLS="$kills" \
  SEED="$seed" -- test/mount/attach-cycles.test.ts
