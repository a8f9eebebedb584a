#!/usr/bin/env bash
# Simulated power cuts: random workloads on images in memory; for the moments between two host operations the states that
# the disk may be in are built, opened, repaired, read, written to and checked (test/support/power-cut.ts says how).
# Prints for each kind of image: states, states with lost sectors, unrepaired, corrupt after reopening.
# With --qemu it is QEMU that runs the workloads, and that reopens the states (test/support/qemu-power-cut.ts): the same
# figures of QEMU, and of imgfuse with the states that QEMU left. Examples of what went wrong are printed, and are no failure.
set -euo pipefail
usage='usage: powercut.sh [--qemu] [--states N] [--format TEXT] [--seed S]
  --qemu         the engines of QEMU: qed, qcow2, each with and without a backing file
  --states N     states for each kind of image (default 10000, with --qemu 300)
  --format TEXT  only the kinds with TEXT in their name: raw, qed, qcow2, "qcow2 with lazy", ...
  --seed S       the same workloads again (default: another one each time, printed)'
states= qemu=no format= seed=$(date +%s)
while [ $# -gt 0 ]; do
  case $1 in
    --qemu) qemu=yes; shift ;;
    --states) states=$2; shift 2 ;;
    --format) format=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
echo "seed $seed"
if [ $qemu = yes ]; then
  test=test/interop/qemu-power-cut.test.ts
  export QEMU_POWERCUT_STATES="${states:-300}"
else
  test=test/model/power-cut.test.ts
  export POWERCUT_STATES="${states:-10000}"
fi
POWERCUT_FORMAT=$format SEED=$seed \
  npx vitest run --config test/vitest.config.ts --no-color $test | grep -v '^stdout\|^$'
