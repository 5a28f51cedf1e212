#!/usr/bin/env python3
"""Adds up the test cases that the programs of a meson run report (doctest's own totals; 1 for any other program).

The last line is `N passed, N failed`, with skipped cases named above it. A program that failed without a total of its own
(a crash, a timeout) counts as one failure. Exit status 1 unless something passed and nothing failed.
"""
import json
import re
import sys

passed = failed = 0
skipped = []
for line in open(sys.argv[1], encoding="utf-8"):
    run = json.loads(line)
    text = run.get("stdout", "") + run.get("stderr", "")
    cases = re.search(r"test cases:\s+(\d+) \|\s+(\d+) passed \|\s+(\d+) failed", text)
    ok = run["result"] == "OK"
    if cases:
        passed += int(cases[2])
        failed += max(int(cases[3]), 0 if ok else 1)
    elif run["result"] == "SKIP":
        skipped.append(run["name"])
    else:
        passed += ok
        failed += not ok
    skipped += [f"{run['name']}: {reason}" for reason in re.findall(r"SKIPPED: (.*)", text)]

for reason in skipped:
    print("skipped", reason)
print(f"{passed} passed, {failed} failed" + (f", {len(skipped)} skipped" if skipped else ""))
sys.exit(failed > 0 or passed == 0)
