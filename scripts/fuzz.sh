#!/bin/sh
# Damaged images: valid ones of every kind with fields at the edges of their ranges, pointers crossed, tables cut, compressed
# data broken, through open, info, check, repair, map, reads and writes, in a process that is watched (test/support/fuzz.ts).
# Prints for each format: mutants, opened for writing, crashes, hangs over 2 s of CPU time, findings, peak memory.
set -eu
usage='usage: fuzz.sh [--format F] [--mutants N] [--seed S] [--first N]
  --format F   qcow2, qed or raw (default: all)
  --mutants N  for each format (default 10000)
  --seed S     the same mutants again (default: others each time, printed)
  --first N    begin with mutant N of the seed'
mutants=10000 format= seed=$(date +%s) first=0
while [ $# -gt 0 ]; do
  case $1 in
    --mutants) mutants=$2; shift 2 ;;
    --format) format=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --first) first=$2; shift 2 ;;
    --help) echo "$usage"; exit 0 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
if [ ! -f dist/cli.js ] || [ -n "$(find src -newer dist/cli.js -name '*.ts' -print -quit)" ]; then npm run --silent build; fi
echo "seed $seed"
FUZZ_MUTANTS=$mutants FUZZ_FORMAT=$format FUZZ_FIRST=$first SEED=$seed \
  npx vitest run --config test/vitest.config.ts --no-color test/hostile/fuzz.test.ts | grep -v '^stdout\|^$'
