#!/bin/sh
# Runs the tests of a build folder and ends with the totals of all test cases: tests/run.sh build [long], the latter those that take many minutes.
build=${1:-build}
[ "$2" = long ] && suite=--suite || suite=--no-suite
meson test -C "$build" --no-rebuild --print-errorlogs $suite long
status=$?
python3 "$(dirname "$0")/totals.py" "$build/meson-logs/testlog.json" || status=1
exit $status
