#!/usr/bin/env python3
"""A byte-level BPE vocabulary from a text, and a Llama with random weights that uses it, as a GGUF file (format: engine/gguf.h).

    make_tiny.py corpus.txt tiny-init.gguf

The model writes one story a line: its end-of-text token is the line's end. Only Python's standard library is needed.
"""
import array
import collections
import random
import re
import struct
import sys

VOCABULARY, CONTEXT = 768, 512
CHANNELS, LAYERS, HEADS, KV_HEADS, HIDDEN = 128, 4, 4, 2, 352     # 0.83 million weights; rows are multiples of 32, as Q8_0 asks

# GPT-2's cut into words (Radford et al. 2019), for ASCII texts.
WORDS = re.compile(r"'(?:[stdm]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_letters():
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for U+0100 and on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def train_bpe(text, size):
    """Tokens and merges: the most frequent pair of neighbours becomes a token, again and again (Sennrich et al. 2016)."""
    letters = byte_letters()
    words = [([letters[b] for b in word.encode()], n) for word, n in collections.Counter(WORDS.findall(text)).items()]
    tokens, merges = sorted(letters.values()), []
    known = set(tokens)
    while len(tokens) < size:
        pairs = collections.Counter()
        for word, n in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        (a, b), _ = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        if a + b not in known:      # two pairs may make the same token
            tokens.append(a + b)
            known.add(a + b)
        merges.append(f"{a} {b}")
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if word[i] == a and word[i + 1] == b:
                    word[i:i + 2] = [a + b]
                i += 1
    return tokens, merges


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(x):
    """A GGUF value: its type, then its bytes."""
    if isinstance(x, bool):
        return struct.pack("<I?", 7, x)
    if isinstance(x, int):
        return struct.pack("<II", 4, x)
    if isinstance(x, float):
        return struct.pack("<If", 6, x)
    if isinstance(x, str):
        return struct.pack("<I", 8) + string(x)
    if isinstance(x[0], str):
        return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(string, x))
    return struct.pack("<IIQ", 9, 5, len(x)) + struct.pack(f"<{len(x)}i", *x)


def weights():
    """Name, shape (outermost first) and numbers of each tensor; the output matrix is the embedding."""
    rng = random.Random(0)
    kv = CHANNELS // HEADS * KV_HEADS

    def normal(rows, columns, deviation):
        return (rows, columns), array.array("f", (rng.gauss(0, deviation) for _ in range(rows * columns)))

    def ones():
        return (CHANNELS,), array.array("f", [1.0] * CHANNELS)

    residual = 0.05 / (2 * LAYERS) ** 0.5        # what adds to the residual stream starts smaller (Radford et al. 2019)
    yield "token_embd.weight", *normal(VOCABULARY, CHANNELS, 0.05)
    for i in range(LAYERS):
        yield f"blk.{i}.attn_norm.weight", *ones()
        yield f"blk.{i}.attn_q.weight", *normal(CHANNELS, CHANNELS, 0.05)
        yield f"blk.{i}.attn_k.weight", *normal(kv, CHANNELS, 0.05)
        yield f"blk.{i}.attn_v.weight", *normal(kv, CHANNELS, 0.05)
        yield f"blk.{i}.attn_output.weight", *normal(CHANNELS, CHANNELS, residual)
        yield f"blk.{i}.ffn_norm.weight", *ones()
        yield f"blk.{i}.ffn_gate.weight", *normal(HIDDEN, CHANNELS, 0.05)
        yield f"blk.{i}.ffn_up.weight", *normal(HIDDEN, CHANNELS, 0.05)
        yield f"blk.{i}.ffn_down.weight", *normal(CHANNELS, HIDDEN, residual)
    yield "output_norm.weight", *ones()


def write_gguf(path, keys, tensors):
    infos, data = b"", b""
    for name, shape, numbers in tensors:
        infos += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data))
        if sys.byteorder == "big":
            numbers.byteswap()
        data += numbers.tobytes()
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(string(k) + value(v) for k, v in keys.items()) + infos
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


def main():
    corpus, out = sys.argv[1:]
    with open(corpus, encoding="ascii") as file:
        tokens, merges = train_bpe(file.read(), VOCABULARY)
    end = tokens.index(byte_letters()[ord("\n")])
    write_gguf(out, {
        "general.architecture": "llama", "general.name": "KVT stories", "general.license": "mit",
        "llama.block_count": LAYERS, "llama.context_length": CONTEXT, "llama.embedding_length": CHANNELS,
        "llama.feed_forward_length": HIDDEN, "llama.attention.head_count": HEADS, "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0, "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens), "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": end, "tokenizer.ggml.bos_token_id": end, "tokenizer.ggml.add_bos_token": False,
    }, list(weights()))


if __name__ == "__main__":
    main()
