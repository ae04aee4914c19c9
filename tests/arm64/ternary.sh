#!/usr/bin/env bash
# Cross-compiles the ternary kernels into /opt/bitnet of the arm64 root, unless their sources are those of the last time.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
native=$checkout/plugins/edgellm-bitnet/native
target=$root/opt/bitnet

key=$(cat "$native"/* | sha256sum)
[[ ! -e $target/key || $(<"$target/key") != "$key" ]] || exit 0
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need cmake cmake
echo "Cross-compiling the ternary kernels"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cmake -S "$native" -B "$scratch" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc >/dev/null
cmake --build "$scratch" -j "$(nproc)" >/dev/null
mkdir -p "$target"
cp "$scratch/libedgellm_bitnet.so" "$target/"
echo "$key" >"$target/key"
