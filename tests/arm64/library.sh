#!/usr/bin/env bash
# Cross-compiles libllama into /opt/llama of the arm64 root, unless it is there: pip builds it on this machine as set-up does,
# with the settings of plugins/edgellm-gguf/pyproject.toml, but for $ARM64_MARCH and with Debian's cross compiler.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
python=${PYTHON:-python3}
march=${ARM64_MARCH:-armv8.2-a+dotprod}
plugin=$checkout/plugins/edgellm-gguf
target=$root/opt/llama

key=$(cat "$plugin/pyproject.toml" "$plugin/llama.cmake" "$plugin"/native/layout.* "$here/library.sh" - <<<"$march" | sha256sum)
[[ ! -e $target/key || $(<"$target/key") != "$key" ]] || exit 0
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
# The wheel's name, then pip's options.
mapfile -t build < <("$python" - "$plugin" <<'PYTHON'
import sys, tomllib

folder = sys.argv[1]
with open(f"{folder}/pyproject.toml", "rb") as file:
    native = tomllib.load(file)["tool"]["edgellm"]["native"]
settings = [text.replace("{here}", folder) for text in native["settings"]]
print(native["wheel"], *(f"--config-settings={text}" for text in settings), sep="\n")
PYTHON
)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
echo "Cross-compiling ${build[0]} for $march"
"$python" -m venv "$scratch/venv"
export CMAKE_ARGS="-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
-DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=$march"
"$scratch/venv/bin/python" -m pip wheel --quiet --no-deps --no-cache-dir --no-binary "${build[0]%%=*}" \
    --wheel-dir "$scratch" "${build[@]:1}" "${build[0]}"
"$python" -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
rm -rf "$target"
mkdir -p "$target"
cp "$scratch"/wheel/llama_cpp/lib/*.so* "$target/"
echo "$key" >"$target/key"
