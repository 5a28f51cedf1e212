#!/usr/bin/env python3
"""Writes engine/unicode_tables.cpp, the tables behind engine/unicode.h, from Python's unicodedata.

    python3 tools/unicode_tables.py > engine/unicode_tables.cpp
"""
import sys
import unicodedata as ud

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
LIMIT = 0x110000


def rows(items, per_line=10):
    return "\n".join("    " + ", ".join(items[i:i + per_line]) + "," for i in range(0, len(items), per_line))


def category_runs():
    """First code point of each run of one category, as code << 5 | category."""
    out, last = [], None
    for c in range(LIMIT):
        k = CATEGORIES.index(ud.category(chr(c)))
        if k != last:
            out.append(c << 5 | k)
            last = k
    return out


def lower_runs():
    """(first, last, step, delta): every step-th code point from first to last lower-cases to itself + delta."""
    pairs = [(c, ord(chr(c).lower()[0])) for c in range(0x80, LIMIT) if chr(c).lower()[0] != chr(c)]
    out = []
    for c, low in pairs:
        d = low - c
        if out and out[-1][3] == d:
            first, last, step, _ = out[-1]
            gap = c - last
            if gap <= 2 and (first == last or gap == step):
                out[-1] = (first, c, gap, d)
                continue
        out.append((c, c, 1, d))
    return out


def decompositions():
    """(code, first part, second part or 0): one step of canonical decomposition; Hangul is arithmetic and left out."""
    out = []
    for c in range(LIMIT):
        d = ud.decomposition(chr(c))
        if d and not d.startswith("<"):
            parts = [int(p, 16) for p in d.split()]
            out.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
    return out


categories, lower, parts = category_runs(), lower_runs(), decompositions()
sys.stdout.write(f"""// Unicode {ud.unidata_version} data. Written by tools/unicode_tables.py: change that, not this.
#include "engine/unicode_tables.h"

namespace kvt::unicode {{

// clang-format off
const uint32_t category_runs[] = {{
{rows([hex(x) for x in categories], 14)}
}};
const size_t category_run_count = {len(categories)};

const LowerRun lower_runs[] = {{
{rows(["{%#x, %#x, %d, %d}" % r for r in lower], 6)}
}};
const size_t lower_run_count = {len(lower)};

const Decomposition decompositions[] = {{
{rows(["{%#x, %#x, %#x}" % r for r in parts], 6)}
}};
const size_t decomposition_count = {len(parts)};
// clang-format on

}}  // namespace kvt::unicode
""")
