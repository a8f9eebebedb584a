#!/bin/sh
# Daemons that are killed under load: fio with verification, numbered blocks and an ext4 guest write to an image; SIGKILL or, in
# every third run, SIGTERM comes at a random moment. Then the dead mount is removed, the image checked, repaired, and everything
# that was promised looked for, the guest's fsck included (test/support/kill-run.ts). Needs root and Debian's packages of
# scripts/test.sh. Prints how many runs, blocks and files there were; a loss fails the run and ends with exit code 1.
set -eu
usage='usage: killtest.sh [--runs N] [--seed S] [--memory]
  --runs N   runs, over every format that is written, and overlays (default: see test/support/slices.ts)
  --seed S   the same moments again (default: others each time, printed)
  --memory   also a daemon with 256 MiB of memory under a guest that writes more than that'
runs= seed=$(date +%s) memory=
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh '^killed by\|^blocks checked\|^memory limit' SLICE=long SLICE_KILLS="$runs" SEED="$seed" -- \
  test/mount/killed-daemon.test.ts ${memory:+test/mount/memory-limit.test.ts}
