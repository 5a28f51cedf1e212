"""Engines doing the same work in turns: rounds, medians with 95 % intervals, ratios, shares of the host's limits, a table, JSON.

A ratio says how many times better KVT is than the best of its peers: KVT / peer where more is better (tokens/s), peer / KVT where less is
(seconds, megabytes). It is the median over rounds, in each of which the engines ran within seconds of each other.
"""
import json
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field

import bars

OURS = "KVT"


@dataclass
class Metric:
    key: str
    name: str                        # with its unit: "tokens/s"
    more_is_better: bool = True
    scale: float = 1                 # units of the limit in one of ours: FLOP a token, bytes a token
    digits: int = 1
    goal: float = None               # least ratio that is asked for


@dataclass
class Job:
    part: str                        # decode, prefill, …
    work: str                        # what is done: a type of weights, a shape
    metrics: list
    engines: dict                    # name → function that does the work once and returns {metric key: value}
    peers: list                      # names among the engines that KVT is measured against; the better one counts
    limit: tuple = None              # (name, function returning the host's limit in units/s), of the first metric
    close: list = field(default_factory=list)      # functions to call at the end


def interval(values):
    """95 % interval of the median, free of assumptions: order statistics of binomial ranks (n = 10: the 2nd and the 9th, 97.9 %)."""
    n, x = len(values), sorted(values)
    inside, k = 0.0, 0
    for k in range(n // 2, 0, -1):      # the narrowest pair of ranks (k, n + 1 − k) that holds the median with 95 %
        inside = sum(math.comb(n, i) for i in range(k, n - k + 1)) / 2 ** n
        if inside >= 0.95:
            return x[k - 1], x[n - k]
    return x[0], x[-1]                  # fewer than six values: all of them, which is less than 95 %


def summary(values):
    low, high = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high, "values": values}


def busy_cores(seconds):
    """How many cores are at work, on the mean over so long."""
    def busy():
        user, nice, system, idle, wait, *rest = (int(x) for x in open("/proc/stat").readline().split()[1:])
        return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")
    before, start = busy(), time.monotonic()
    time.sleep(seconds)
    return (busy() - before) / (time.monotonic() - start)


def measure(job, rounds):
    """Rows of a job, one for each metric."""
    seen = {name: [] for name in job.engines}
    limits, others = [], []
    for i in range(rounds + 1):                          # the first round warms up
        for name, run in job.engines.items():
            result = run()
            if i:
                seen[name].append(result)
            time.sleep(0.05)                             # until the threads of the last engine sleep
        others.append(busy_cores(0.2))
        if job.limit and i:
            limits.append(job.limit[1]())
        print(f"\r{job.part} {job.work}: {i}/{rounds} ", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    for close in job.close:
        close()
    loaded = statistics.mean(others)
    if loaded > 0.1:
        print(f"{job.part} {job.work}: other programs kept {loaded:.1f} cores busy meanwhile", file=sys.stderr)
    rows = []
    for m in job.metrics:
        engines = {name: summary([r[m.key] for r in results]) for name, results in seen.items() if m.key in results[0]}
        if OURS not in engines:
            continue
        row = {"part": job.part, "work": job.work, "metric": m.name, "more_is_better": m.more_is_better, "digits": m.digits, "engines": engines,
               "busy_cores_of_others": loaded}
        peers = [p for p in job.peers if p in engines]
        if peers:
            best = (max if m.more_is_better else min)(peers, key=lambda p: engines[p]["median"])
            row["peer"] = best
            row["ratios"] = {p: summary([(a / b if m.more_is_better else b / a) for a, b in zip(engines[OURS]["values"], engines[p]["values"])]) for p in peers}
            row["ratio"] = row["ratios"][best]
        if m.goal and peers:
            row["goal"] = m.goal
        if limits and m is job.metrics[0] and None not in limits:
            top = max(limits)
            row["limit"] = {"name": job.limit[0], "value": top, "share": engines[OURS]["median"] * m.scale / top}
        rows.append(row)
    return rows


def text(row):
    """A line of the table."""
    d = row["digits"]
    cells = [f"{name} {e['median']:.{d}f} [{e['low']:.{d}f}, {e['high']:.{d}f}]" for name, e in row["engines"].items()]
    line = f"{row['work']:22} {row['metric']:10} " + "  ".join(f"{c:34}" for c in cells)
    if "ratio" in row:
        r = row["ratio"]
        line += f"  ratio {r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}] to {row['peer']}"
        line += "".join(f", {o['median']:.2f} to {p}" for p, o in row["ratios"].items() if p != row["peer"])
    if "goal" in row:
        line += f" (goal {row['goal']})"
    if "limit" in row:
        line += f"  {100 * row['limit']['share']:.0f}% of {row['limit']['name']}"
    return line


def markdown(rows):
    """The table of the README: medians, ratios to the peers with their intervals, share of the limit."""
    lines = ["| work | KVT | peers | times better than the best peer | than the others | of the limit |", "|---|---|---|---|---|---|"]
    for r in rows:
        d, engines = r["digits"], r["engines"]
        peers = ", ".join(f"{name} {e['median']:.{d}f}" for name, e in engines.items() if name != OURS)
        best = f"{r['ratio']['median']:.2f} [{r['ratio']['low']:.2f}, {r['ratio']['high']:.2f}]" if "ratio" in r else ""
        rest = ", ".join(f"{x['median']:.2f}" for p, x in r.get("ratios", {}).items() if p != r["peer"])
        share = f"{100 * r['limit']['share']:.0f} % of {r['limit']['name']}" if "limit" in r else ""
        lines.append(f"| {r['part']} {r['work']}, {r['metric']} | {engines[OURS]['median']:.{d}f} | {peers} | {best} | {rest} | {share} |")
    return "\n".join(lines)


class Report:
    """Rows of this run joined with those that the file has of earlier ones; a row measured anew replaces the old one."""

    def __init__(self, path, host, parts):
        self.path, self.host, self.parts = path, host, parts
        self.rows, self.hosts = [], {}
        if path and os.path.exists(path):
            with open(path) as file:
                old = json.load(file)
            if old["host"]["processor"] == host["processor"]:        # figures of another machine do not belong here
                self.rows = old["rows"]
                self.host = {**old["host"], **host}

    def add(self, rows):
        key = lambda r: (r["part"], r["work"], r["metric"])
        new = {key(r) for r in rows}
        self.rows = [r for r in self.rows if key(r) not in new] + rows
        self.rows.sort(key=lambda r: self.parts.index(r["part"]))
        for row in rows:
            print(text(row), flush=True)
        self.write()

    def write(self):
        if not self.path:
            return
        with open(self.path + ".new", "w") as file:
            json.dump({"host": self.host, "rows": self.rows}, file, indent=1)
        os.replace(self.path + ".new", self.path)
        with open(os.path.splitext(self.path)[0] + ".svg", "w") as file:
            file.write(bars.svg(self.host, self.rows))
