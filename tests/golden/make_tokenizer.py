#!/usr/bin/env python3
"""Small vocabularies and reference ids for tests/tokenizer_test.cpp.

    python3 tests/golden/make_tokenizer.py tiny                    writes tokenizer_bpe.gguf, tokenizer_spm.gguf, tokenizer_wordpiece.gguf
    python3 tests/golden/make_tokenizer.py goldens MODEL.gguf      writes tokenizer_smollm2.json: ids by the `tokenizers` package
    python3 tests/golden/make_tokenizer.py words                   writes pretokenize.json: words by the `regex` package
    python3 tests/golden/make_tokenizer.py unicode                 prints the sums over all code points that unicode_test.cpp expects

Needs gguf, tokenizers and regex. The vocabularies are trained here, on the texts below; the reference ids come from the package's own
implementation of byte-level BPE, fed with the vocabulary and merges of MODEL.gguf.
"""
import json
import pathlib
import sys
import unicodedata

import gguf
import regex
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
CORPUS = ["The cat sat on the mat, and the other cat sat on the hat.", "In 1999 there were 12345 cats; they're all gone now.",
          "Das Käsebrötchen für 3,50 Euro schmeckt außerordentlich gut.", "   indented\n\n\tcode = {1: 'one'}\n", "我想在apple工作1314151天～ 漢字かな混じり文",
          "Привет, мир! Ещё раз: привет.", "🚀🦙 emoji 🌫️ e\u0301\u0300 combining"] * 3
TRICKY = ["", " ", "  ", "\n", "\t\n \r\n x", "Hello, world!", "  leading and trailing  ", "a\n\n\n  b \n c", "1 12 123 1234 12345 3.14159 ½ ² ٣٤ Ⅷ",
          "I'm you're WE'VE they'LL O'Clock 'tis 'S 'RE don''t", "naïve café Ångström e\u0301\u0327", "我想在apple工作1314151天～。、《》",
          "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३", "🚀🦙👨‍👩‍👧 ok 🏳️‍🌈", "x\u00a0y\u2003z\u3000w\u200bq\u2028r", "for (int i=0;i<10;++i) { a[i] += b_c; } // ok",
          "https://example.org/a?b=c&d=%20#e", "ALLCAPS CamelCase snake_case kebab-case", "\u1d400\U0001d400 \u0378 \ufdd0 \ue000",
          "ﬁ Ⅷ ǅ ʰ ʕ ა Ა ꭰ", "....,,,!!!???---___```~~~", "   \n   \n   ", "a" * 300, "the " * 50, "Ġ Ċ ▁ <|endoftext|", "ſ'ſ 'ſ K Å"]


def write(name, model, tokens, types, scores=None, merges=None, pre=None, **ids):
    w = gguf.GGUFWriter(HERE / name, "llama")
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if scores:
        w.add_token_scores(scores)
    if merges:
        w.add_token_merges(merges)
    if pre:
        w.add_tokenizer_pre(pre)
    for key, value in ids.items():
        w.add_uint32(f"tokenizer.ggml.{key}_token_id", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def tiny():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=512, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                                      special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False))
    data = json.loads(t.to_str())["model"]
    tokens = sorted(data["vocab"], key=data["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["merges"]]
    tokens, types = tokens + ["<tool>", "<tool>x"], [3] * 3 + [1] * (len(tokens) - 3) + [4, 4]
    write("tokenizer_bpe.gguf", "gpt2", tokens, types, pre="gpt-2", merges=merges, bos=1, eos=2)

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    vocab = t.get_vocab()
    learned = [x for x in sorted(vocab, key=vocab.get) if x not in ("<unk>", "<s>", "</s>")]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + learned
    scores = [0.0] * 259 + [-float(i) for i in range(len(learned))]
    write("tokenizer_spm.gguf", "llama", tokens, [2, 3, 3] + [6] * 256 + [1] * len(learned), scores, bos=1, eos=2, unknown=0)

    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    vocab = t.get_vocab()
    tokens = [x if x in special else x[2:] if x.startswith("##") else "▁" + x for x in sorted(vocab, key=vocab.get)]
    write("tokenizer_wordpiece.gguf", "bert", tokens, [3] * 5 + [1] * (len(tokens) - 5), padding=0, unknown=1, cls=2, seperator=3, mask=4)
    texts = [x for x in TRICKY if "ſ" not in x] + CORPUS[:7] + ["x" * 101 + " cat", "한국어 텍스트", "cat\u0000\ufffd\u200bs [CLS]sat"]
    save("tokenizer_wordpiece.json", t, texts)


def save(name, tokenizer, texts):
    cases = [{"text": x, "ids": tokenizer.encode(x, add_special_tokens=False).ids} for x in texts]
    (HERE / name).write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


def goldens(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    t = Tokenizer(models.BPE({x: i for i, x in enumerate(tokens)}, merges))
    t.add_special_tokens([AddedToken(x, normalized=False, special=True) for x, k in zip(tokens, fields["tokenizer.ggml.token_type"].contents()) if k == 3])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    save("tokenizer_smollm2.json", t, TRICKY + CORPUS[:7] + ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"])


# The published expressions, pass by pass; UW and EN are their long parts.
EN = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+@|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*@"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
ASCII = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
PRE = {
    "default": [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [EN + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL],
    "qwen2": [EN + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL],
    "qwen35": [EN + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + TAIL],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                    ASCII + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + TAIL],
    "falcon": [r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"],
    "tekken": [CAMEL.replace("@", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
    "gpt-4o": [CAMEL.replace("@", EN + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL],
}


def split(pieces, pattern):
    out = []
    for piece in pieces:
        at = 0
        for m in regex.finditer(pattern, piece, regex.V0):
            if m.end() > m.start():
                out += [piece[at:m.start()], m.group()]
                at = m.end()
        out.append(piece[at:])
    return [p for p in out if p]


def words():
    extra = ["HTTPServer XMLHttpRequest iPhone漢字ABc ǅa ʰA e\u0301A\u0301b", "x //\n/\r\n y/\n", "  \n  x  \t\ty  ", "I'D'Ll we're'VE", "\u0301a \u0301 ..\u0301"]
    cases = []
    for name, passes in PRE.items():
        for text in TRICKY + extra:
            pieces = [text]
            for pattern in passes:
                pieces = split(pieces, pattern)
            cases.append({"pre": name, "text": text, "words": pieces})
    (HERE / "pretokenize.json").write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")


def unicode():
    order = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
    sums = [0, 0, 0]
    for c in range(0x110000):
        if 0xD800 <= c <= 0xDFFF:
            continue
        values = [order.index(unicodedata.category(chr(c)))], [ord(chr(c).lower()[0])], sorted(map(ord, unicodedata.normalize("NFD", chr(c))))
        for i, v in enumerate(values):
            for x in v:
                sums[i] = (sums[i] * 31 + x) % 2**64
    print(unicodedata.unidata_version, [hex(s) for s in sums])


if sys.argv[1:] == ["words"]:
    words()
elif sys.argv[1:] == ["unicode"]:
    unicode()
elif sys.argv[1:] == ["tiny"]:
    tiny()
elif sys.argv[1:2] == ["goldens"] and len(sys.argv) == 3:
    goldens(sys.argv[2])
else:
    sys.exit(__doc__)
