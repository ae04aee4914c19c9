#!/usr/bin/env bash
# EdgeLLM on an emulated Arm core: run.sh [PYTEST ARGUMENT...]
# Makes an arm64 Debian and sets EdgeLLM up in it, each unless it is there; then checks.py and the tests, but for left-out.txt.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export QEMU_CPU=${QEMU_CPU:-neoverse-n1} # has what the library is built for
export LLAMA_CPP_LIB_PATH=/opt/llama EDGELLM_HOME=/opt/edgellm
# /src cannot be written.
export PYTHONPYCACHEPREFIX=/var/cache/python HYPOTHESIS_STORAGE_DIRECTORY=/var/cache/hypothesis

"$here/root.sh"
"$here/library.sh"
"$here/ternary.sh"
"$here/enter.sh" python3 plugins/install.py --venv /opt/venv --extras test
# The ternary plugin is not installed there for want of a compiler; its one dependency that the core lacks is.
"$here/enter.sh" pip install --quiet "$(sed -n 's/.*"\(tokenizers[^"]*\)".*/\1/p' "$checkout/plugins/edgellm-bitnet/pyproject.toml")"
if (($#)); then
    selected=("$@")
else
    # What computes with real models for hours is not among them: tests/gguf but for test_library.py, tests/docs.
    selected=(tests/*.py tests/{attacks,builtin,catalog,cli,estimate,formats,hardware,runtime,selection,server,store,text}
        tests/gguf/test_library.py)
fi
mapfile -t left_out < <(sed -n 's/^tests/--deselect=&/p' "$here/left-out.txt")
pytest=("$here/enter.sh" pytest -p no:cacheprovider --timeout 1800)
"${pytest[@]}" -v tests/arm64/checks.py
# The ternary kernels: their tests where all of them run, the trained model on a core of each kind.
ternary=(env EDGELLM_BITNET_LIBRARY=/opt/bitnet/libedgellm_bitnet.so PYTHONPATH=/src/plugins/edgellm-bitnet pytest
    -p no:cacheprovider --timeout 1800)
for core in cortex-a53 neoverse-n1 neoverse-v1; do
    QEMU_CPU=$core "$here/enter.sh" "${ternary[@]}" -v tests/arm64/ternary.py
done
QEMU_CPU=neoverse-v1 "$here/enter.sh" "${ternary[@]}" -q tests/bitnet/test_kernels.py
"${pytest[@]}" -q "${left_out[@]}" "${selected[@]}"
