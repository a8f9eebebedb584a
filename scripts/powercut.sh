#!/bin/sh
# Simulated power cuts: random workloads on images in memory; for the moments between two host operations the states that
# the disk may be in are built, opened, repaired, read, written to and checked (test/support/power-cut.ts says how).
# Prints for each kind of image: states, states with lost sectors, unrepaired, corrupt after reopening.
set -eu
usage='usage: powercut.sh [--states N] [--format TEXT] [--seed S]
  --states N     states for each kind of image (default 10000)
  --format TEXT  only the kinds with TEXT in their name: raw, qed, qcow2, "qcow2 with lazy", ...
  --seed S       the same workloads again (default: another one each time, printed)'
states=10000 format= seed=$(date +%s)
while [ $# -gt 0 ]; do
  case $1 in
    --states) states=$2; shift 2 ;;
    --format) format=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
echo "seed $seed"
POWERCUT_STATES=$states POWERCUT_FORMAT=$format SEED=$seed \
  npx vitest run --config test/vitest.config.ts --no-color test/model/power-cut.test.ts | grep -v '^stdout\|^$'
