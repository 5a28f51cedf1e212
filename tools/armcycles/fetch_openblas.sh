#!/bin/sh
# OpenBLAS for arm64 from Debian, as a static library to measure beside KVT: fetch_openblas.sh FOLDER
# apt works in FOLDER/apt with lists of its own: the machine's packages and architectures stay as they are.
set -e
folder=$1
[ -f "$folder/libopenblas.a" ] && exit 0
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
cd "$folder/apt"
quiet_apt() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$PWD" -o Dir::State::lists="$PWD/lists" -o Dir::State::status=/dev/null \
    -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
quiet_apt update
quiet_apt download libopenblas-pthread-dev
dpkg -x libopenblas-pthread-dev_*_arm64.deb unpacked
cp unpacked/usr/include/aarch64-linux-gnu/openblas-pthread/*.h ..
cp unpacked/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.a ..
rm -r ../apt
