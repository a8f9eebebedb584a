#!/bin/sh
# Simulated power cuts: random workloads on images in memory; for the moments between two host operations the states that
# the disk may be in are built, opened, repaired, read, written to and checked (test/support/power-cut.ts says how).
# Prints for each kind of image: states, distinct ones (equal states of a workload are judged once), states with lost sectors,
# unrepaired, corrupt after reopening, and how many states in a second of CPU time.
# With --qemu it is QEMU that runs the workloads, and that reopens the states (test/support/qemu-power-cut.ts): the same
# figures of QEMU, and of imgfuse with the states that QEMU left. Examples of what went wrong are printed, and are no failure.
set -eu
usage='usage: powercut.sh [--qemu] [--states N] [--format TEXT] [--seed S] [--first N] [--jobs N]
  --qemu         the engines of QEMU: qed, qcow2, each with and without a backing file
  --states N     states for each kind of image (default: see test/support/slices.ts)
  --format TEXT  only the kinds of raw, qed, qcow2, qcow, vdi, vmdk, vpc or vhdx, or those with TEXT in their name: snapshot, "qcow2 with lazy",
                 commit, rebase, ...
  --seed S       the same workloads again (default: another one each time, printed)
  --first N      begin with workload N of the seed, where another run has ended
  --jobs N       processes that run them (default: 1)'
states= qemu= format= seed=$(date +%s) first=0 jobs=1
cd "$(dirname "$0")/.."
. scripts/options.sh
if [ "$qemu" = yes ]; then
  exec scripts/run-figures.sh '^QEMU .*: [0-9]\|^  QEMU: \|^  imgfuse: ' \
    SLICE=long SLICE_QEMUCUTS="$states" POWERCUT_FORMAT="$format" SEED="$seed" -- test/interop/qemu-power-cut.test.ts
fi
exec scripts/run-figures.sh ': [0-9][0-9]* states,' \
  SLICE=long SLICE_CUTS="$states" SLICE_EXTENTCUTS="$states" SLICE_FILECUTS="$states" POWERCUT_FORMAT="$format" \
  POWERCUT_FIRST="$first" PROOF_JOBS="$jobs" SEED="$seed" -- --passWithNoTests test/model/power-cut-
