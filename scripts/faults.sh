#!/bin/sh
# Failing host operations: random workloads on images in memory, each once for every change of the host file, which fails
# once or from then on, with EIO, ENOSPC or half-way (test/support/faults.ts). Prints how many faults found nothing wrong.
set -eu
usage='usage: faults.sh [--workloads N] [--seed S]
  --workloads N  for each kind of image and of fault (default 20)
  --seed S       the same workloads again (default: another one each time, printed)'
workloads=20 seed=$(date +%s)
while [ $# -gt 0 ]; do
  case $1 in
    --workloads) workloads=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
echo "seed $seed"
FAULT_WORKLOADS=$workloads SEED=$seed \
  npx vitest run --config test/vitest.config.ts --no-color test/model/faults.test.ts
