#!/usr/bin/env python3
"""Byte-level BPE trained by the `tokenizers` package on a made text, for tests/bpe_train_test.cpp.

  python3 tests/golden/make_bpe.py > tests/golden/bpe_train.json

The text comes from a linear congruential generator that the test repeats: s <- s * 6364136223846793005 + 1442695040888963407 (mod 2^64),
below(n) = (s >> 33) mod n; each of 3000 words is three syllables at most, skewed towards the first ones.
"""
import json
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SYLLABLES = ["an", "be", "the", "er", "st", "in", "\u00fc", "ge", "sch", "o", "ll", "\u20ac", "7", "42", "aaa", "nn", "!", ",", "\U0001f600", "qu"]
s = 17
def below(n):
    global s
    s = (s * 6364136223846793005 + 1442695040888963407) % 2**64
    return (s >> 33) % n
lines = []
for _ in range(300):
    words = []
    for _ in range(10):
        words.append("".join(SYLLABLES[min(below(len(SYLLABLES)), below(len(SYLLABLES)))] for _ in range(1 + below(3))))
    lines.append(" ".join(words))

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=700, min_frequency=2, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
tokenizer.train_from_iterator(lines, trainer)
model = json.loads(tokenizer.to_str())["model"]
tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda kv: kv[1])]
merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
probe = "\u00fcbergeschall quantities, the 42 \U0001f600 best! aaaa  end"
print(json.dumps({"first_line": lines[0], "tokens": tokens, "merges": merges, "probe": probe, "ids": tokenizer.encode(probe).ids}, ensure_ascii=True, indent=0))
