#!/usr/bin/env python3
"""BLEU by sacrebleu of newstest2014 with its references shuffled, truncated and perturbed, for tests/bleu_test.cpp.

  python3 tests/golden/make_bleu.py $KVT_DATA/mt-wmt-newstest-en-de > tests/golden/bleu.json

Each case's hypotheses come from the references by rules that the test repeats with the same generator, a 64-bit linear congruential one:
  s <- s * 6364136223846793005 + 1442695040888963407 (mod 2^64);  below(n) = (s >> 33) mod n.
Words are what single spaces separate.
"""
import json, sys
from pathlib import Path

import sacrebleu

class Lcg:
    def __init__(self, seed): self.s = seed
    def below(self, n):
        self.s = (self.s * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.s >> 33) % n

def shuffled(lines, r):                       # the words of each line, by Fisher and Yates
    out = []
    for line in lines:
        w = line.split(" ")
        for i in range(len(w) - 1, 0, -1):
            j = r.below(i + 1)
            w[i], w[j] = w[j], w[i]
        out.append(" ".join(w))
    return out

def truncated(lines, r):                      # a random number of words, at times none
    return [" ".join(w[:r.below(len(w) + 1)]) for w in (line.split(" ") for line in lines)]

def perturbed(lines, r):                      # one word in five dropped, doubled, or replaced by one from another line
    out = []
    for line in lines:
        kept = []
        for w in line.split(" "):
            kind = r.below(15)
            if kind == 0: continue
            kept.append(w)
            if kind == 1: kept.append(w)
            if kind == 2:
                other = lines[r.below(len(lines))].split(" ")
                kept[-1] = other[r.below(len(other))]
        out.append(" ".join(kept))
    return out

def rotated(lines, r):                        # every line beside the wrong reference
    k = 1 + r.below(len(lines) - 1)
    return lines[k:] + lines[:k]

folder = Path(sys.argv[1])
cases = []
def case(name, language, make, seed, lines, **options):
    refs = (folder / f"newstest2014.{language}").read_text(encoding="utf-8").split("\n")[:lines]
    hyps = make(refs, Lcg(seed))
    metric = sacrebleu.metrics.BLEU(**options)
    score = metric.corpus_score(hyps, [refs])
    cases.append({"case": name, "language": language, "seed": seed, "lines": lines, "smooth": options.get("smooth_method", "exp"),
                  "value": options.get("smooth_value"), "effective": options.get("effective_order", False), "score": score.score,
                  "precisions": score.precisions, "bp": score.bp, "hypothesis_length": score.sys_len, "reference_length": score.ref_len,
                  "signature": metric.get_signature().format(), "text": str(score)})

for seed, language in ((1, "de"), (2, "en")):
    for name, make in (("shuffled", shuffled), ("truncated", truncated), ("perturbed", perturbed), ("rotated", rotated)):
        case(name, language, make, seed, 3003)
for method in ("exp", "floor", "add-k", "none"):
    for name, make in (("shuffled", shuffled), ("rotated", rotated), ("truncated", truncated)):
        for lines in (2, 4):
            for effective in (False, True):
                case(name, "de", make, 10 + lines, lines, smooth_method=method, effective_order=effective)
case("shuffled", "de", shuffled, 3, 2, smooth_method="floor", smooth_value=0.5)
case("rotated", "de", rotated, 3, 20, smooth_method="add-k", smooth_value=2.5)

tokenizer = sacrebleu.tokenizers.tokenizer_13a.Tokenizer13a()
lines = ["Hello, world.", "It's 3.5% of 1,000,000 -- or 10-20?", "&quot;a&quot; &amp;lt; b &lt;c&gt; <skipped>x", "a,b.c,,d..e 1,a a,1 1.,2", "end.", "5-", "-5 5-6-7 x-5-y",
         "\u00bbGr\u00fc\u00dfe\u00ab\u2014\u00e4,\u00f6.\u00fc", "a\u00a0b\u2003c\u3000d\u0085e\u001cf", "tab\there  two", "", "   ", "{[(`~!@#$%^*_+=|\\:;\"'<>?/)]}", "z.B. am 3. Mai, 12,5 Uhr",
         "\U0001f600.\U0001f601,", "a&b &nbsp; &amp;amp;", "1.2.3.4", "...", ".5", "5."]
print(json.dumps({"sacrebleu": sacrebleu.__version__, "cases": cases, "tokens": [[l, tokenizer(l).split()] for l in lines]}, indent=0, ensure_ascii=True))
