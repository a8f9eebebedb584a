#!/usr/bin/env bash
# Runs tests that print figures, with a budget in variables. What the tests print goes to stderr as it comes, the figures to stdout
# once more at the end. For the other scripts.
# Usage: run-figures.sh PATTERN VARIABLE=VALUE... -- TEST...   Lines that match PATTERN are figures; the exit code is the tests'.
set -euo pipefail
cd "$(dirname "$0")/.."
pattern=$1
shift
while [ "$1" != -- ]; do
  case $1 in SEED=*) echo "seed ${1#SEED=}" ;; esac
  export "${1?}"
  shift
done
shift
if [ ! -f dist/cli.js ] || [ -n "$(find src -newer dist/cli.js -name '*.ts' -print -quit)" ]; then npm run --silent build; fi
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
REQUIRE_ALL=1 npx vitest run --config test/vitest.config.ts --no-color "$@" 2>&1 | tee "$report" |
  { grep --line-buffered -v '^stdout\|^$' >&2 || true; } || status=$?
if ! grep "$pattern" "$report"; then
  echo "nothing was run that prints figures" >&2
  [ $status -gt 0 ] || status=1
fi
exit $status
