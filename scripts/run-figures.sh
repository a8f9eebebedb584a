#!/bin/sh
# Runs tests that print figures, with a budget in variables, and shows the figures last. For the other scripts.
# Usage: run-figures.sh PATTERN VARIABLE=VALUE... -- TEST...   Lines that match PATTERN are figures; the exit code is the tests'.
set -eu
cd "$(dirname "$0")/.."
pattern=$1
shift
while [ "$1" != -- ]; do
  export "${1?}"
  shift
done
shift
[ -f dist/cli.js ] || npm run --silent build
report=$(mktemp)
trap 'rm -f "$report"' EXIT
status=0
REQUIRE_ALL=1 npx vitest run --config test/vitest.config.ts --no-color "$@" >"$report" 2>&1 || status=$?
grep -v "^stdout\|^\$\|$pattern" "$report" || true
grep "$pattern" "$report" || true
exit $status
