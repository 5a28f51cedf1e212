#!/usr/bin/env python3
"""Small vocabularies and reference ids for tests/tokenizer_test.cpp.

    python3 tests/golden/make_tokenizer.py tiny                    writes tokenizer_bpe.gguf, tokenizer_spm.gguf, tokenizer_wordpiece.gguf
    python3 tests/golden/make_tokenizer.py goldens MODEL.gguf      writes tokenizer_smollm2.json: ids by the `tokenizers` package

Needs gguf and tokenizers. The vocabularies are trained here, on the texts below; the reference ids come from the package's own
implementation of byte-level BPE, fed with the vocabulary and merges of MODEL.gguf.
"""
import json
import pathlib
import sys

import gguf
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


if sys.argv[1:2] == ["tiny"]:
    tiny()
elif sys.argv[1:2] == ["goldens"] and len(sys.argv) == 3:
    goldens(sys.argv[2])
else:
    sys.exit(__doc__)
