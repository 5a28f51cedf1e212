#!/usr/bin/env python3
"""What rounding activations costs: perplexity of each type of weights as inference computes it, beside the same weights unpacked to F32 and F32 arithmetic.

    perplexity.py DIR -m MODEL -f TEXT [--work Q8_0,Q4_0] [-c 512] [--chunks 32]

Models of other types are made of MODEL by llama-quantize, as peers.py has it, and kept in DIR. Each is read three times: in F32 (--activations f32), in whole
chunks (prompts: tiles of BF16 where there are), and 8 tokens at a time (decoding: integer products, keys and values in F16). Exit status 1 if a
perplexity is more than 0.3 % above that of F32.
"""
import argparse
import json
import os
import sys

import language
import llama_peer

MOST = 1.003


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="where llama.cpp is built and models are kept")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-f", "--file", required=True)
    parser.add_argument("--work", help=f"types (default: {','.join(t for t in language.TYPES if t != 'F32')})")
    parser.add_argument("-c", "--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--kvt", default=os.environ.get("KVT", "build/kvt"), help="(default %(default)s)")
    o = parser.parse_args()
    failed = False
    print(f"{'weights':8} {'F32':>10} {'prompt':>10} {'ratio':>8} {'decoding':>10} {'ratio':>8}   {os.path.basename(o.file)}, {o.chunks} chunks of {o.context}")
    for kind in o.work.split(",") if o.work else [t for t in language.TYPES if t != "F32"]:
        model = llama_peer.model_file(o.folder, o.model, kind)
        command = [o.kvt, "perplexity", "-m", model, "-f", o.file, "-c", str(o.context), "--chunks", str(o.chunks), "--json"]
        exact, prompt, decoding = (json.loads(llama_peer.run(command + more).stdout)["perplexity"] for more in (["--activations", "f32"], [], ["--batch", "8"]))
        failed |= max(prompt, decoding) > MOST * exact
        print(f"{kind:8} {exact:10.4f} {prompt:10.4f} {prompt / exact:8.5f} {decoding:10.4f} {decoding / exact:8.5f}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
