#!/bin/sh
# Runs the tests of a build folder and ends with the totals of all test cases: tests/run.sh build
build=${1:-build}
meson test -C "$build" --no-rebuild --print-errorlogs
status=$?
python3 "$(dirname "$0")/totals.py" "$build/meson-logs/testlog.json" || status=1
exit $status
