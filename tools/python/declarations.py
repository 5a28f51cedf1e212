#!/usr/bin/env python3
"""kvt.h as cffi reads it: declarations alone, without comments, macros and inline functions.

usage: declarations.py kvt.h _declarations.py
"""
import re, sys

text = open(sys.argv[1], encoding="utf-8").read()
text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
text = re.sub(r"static inline [^{]*\{.*?\n\}", "", text, flags=re.S)
text = re.sub(r'extern "C" \{', "", text)
text = re.sub(r"#ifdef __cplusplus\n\}\n#endif", "", text)
text = re.sub(r"^\s*#.*$", "", text, flags=re.M).replace("KVT_API ", "")
text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
open(sys.argv[2], "w", encoding="utf-8").write(f'"""Made from kvt.h."""\nDECLARATIONS = """\n{text}\n"""\n')
