"""libllama with a struct of another release: a small library before the real one, which takes the struct apart and puts
it together as the real one has it.

So everything works but what Python reads and writes at the wrong place, as with a wheel of a neighbouring release.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edgellm_gguf
import pytest
from edgellm_gguf import library

NATIVE = Path(edgellm_gguf.__file__).parent.parent / "native"
# What takes or gives the struct by value, with NAME for it and REAL for the real one.
_FUNCTIONS = {
    "llama_context_params": """
        NAME llama_context_default_params(void) { return drifted(((REAL (*)(void)) NEXT)()); }
        struct llama_context * llama_init_from_model(struct llama_model * model, NAME params) {
            return ((struct llama_context * (*)(struct llama_model *, REAL)) NEXT)(model, real(params));
        }""",
    "llama_model_params": """
        NAME llama_model_default_params(void) { return drifted(((REAL (*)(void)) NEXT)()); }
        struct llama_model * llama_model_load_from_file(const char * path, NAME params) {
            return ((struct llama_model * (*)(const char *, REAL)) NEXT)(path, real(params));
        }""",
    "llama_model_quantize_params": """
        NAME llama_model_quantize_default_params(void) { return drifted(((REAL (*)(void)) NEXT)()); }""",
    "llama_batch": """
        NAME llama_batch_get_one(llama_token * tokens, int32_t n) {
            return drifted(((REAL (*)(llama_token *, int32_t)) NEXT)(tokens, n));
        }
        int32_t llama_decode(struct llama_context * ctx, NAME batch) {
            return ((int32_t (*)(struct llama_context *, REAL)) NEXT)(ctx, real(batch));
        }""",
}
_FOREIGN = """
const void * const * edgellm_layout(void) { static const void * const none[2]; return none; }
const char * edgellm_source(void) { return ""; }
"""


@dataclass(frozen=True, slots=True)
class Drift:
    """One field that another release has elsewhere, has not, or has more."""

    struct: str
    field: str
    added: str = ""  # a declaration that comes before it
    moved: str = ""  # the field that it comes before instead; "" with no `added` = it is dropped

    def __str__(self) -> str:
        return f"{self.struct}.{self.field}"

    def apply(self, lines: Sequence[str]) -> list[str]:
        """Declarations of the struct, as this release has them."""
        at = _index(lines, self.field)
        if self.added:
            return [*lines[:at], f"{self.added};", *lines[at:]]
        left = [*lines[:at], *lines[at + 1 :]]
        return left if not self.moved else [*left[: (to := _index(left, self.moved))], lines[at], *left[to:]]


CONTEXT, MODEL, QUANTIZE, BATCH = (
    "llama_context_params", "llama_model_params", "llama_model_quantize_params", "llama_batch",
)  # fmt: skip
# The first is what llama-cpp-py-sync 0.11739 has. Those that are moved have the same default as their new neighbour.
DRIFTS = [
    Drift(CONTEXT, "abort_callback", added="size_t moe_cache_size"),
    Drift(CONTEXT, "n_seq_max", added="uint32_t n_streams"),
    Drift(CONTEXT, "swa_full", added="bool op_unload"),
    Drift(CONTEXT, "ctx_type"),
    Drift(CONTEXT, "n_outputs_max_per_seq"),
    Drift(CONTEXT, "yarn_beta_slow"),
    Drift(CONTEXT, "n_threads_batch", moved="n_threads"),
    Drift(CONTEXT, "flash_attn_type", moved="pooling_type"),
    Drift(CONTEXT, "type_v", moved="type_k"),
    Drift(CONTEXT, "op_offload", moved="no_perf"),
    Drift(CONTEXT, "abort_callback", moved="cb_eval"),
    Drift(CONTEXT, "kv_unified", moved="embeddings"),
    Drift(MODEL, "split_mode", added="int32_t n_npu_layers"),
    Drift(MODEL, "lazy_mode"),
    Drift(MODEL, "tensor_split"),
    Drift(MODEL, "use_extra_bufts", moved="vocab_only"),
    Drift(QUANTIZE, "quantize_output_tensor", added="bool quantize_input_tensor"),
    Drift(QUANTIZE, "token_embedding_type"),
    Drift(BATCH, "pos", moved="embd"),
    Drift(BATCH, "embd"),
]


def header() -> Path:
    """llama.h of the binding's wheel; skips where there is none."""
    files = importlib.metadata.files("llama-cpp-python") or []
    path = next((Path(str(file.locate())) for file in files if file.name == "llama.h"), None)
    if path is None or shutil.which("c++") is None:
        pytest.skip("compiler: no C++ compiler, or no llama.h of llama-cpp-python")
    return path


def folder_with(drift: Drift | None, folder: Path) -> Path:
    """A folder for LLAMA_CPP_LIB_PATH: a foreign library, with this drift."""
    real = library.library_dir()
    assert real is not None
    for file in real.iterdir():
        if file.name != "libllama.so":
            (folder / file.name).symlink_to(file)
    if not (folder / "libllama.so.0").exists():
        (folder / "libllama.so.0").symlink_to(real / "libllama.so")
    source = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <string.h>\n#include <llama.h>\n" + _FOREIGN
    source += _translation(drift) if drift else ""
    (folder / "shim.c").write_text(_header(drift, folder) and source)
    command = ["cc", "-shared", "-fPIC", "-w", f"-I{folder}", f"-I{header().parent}", "-Wl,--no-as-needed"]
    libraries = [f"-L{folder}", "-l:libllama.so.0", f"-Wl,-rpath,{folder}", "-Wl,--allow-shlib-undefined"]
    subprocess.run([*command, "-o", folder / "libllama.so", folder / "shim.c", *libraries], check=True)
    return folder


def table_with(drift: Drift | None, folder: Path) -> Path:
    """The table of structs alone, as a build of ours with this drift would export it."""
    _header(drift, folder)
    rows = (NATIVE / "layout.inc.h").read_text()
    if drift and not drift.added and not drift.moved:
        rows = rows.replace(f"FIELD({drift.struct}, {drift.field})", "")
    (folder / "layout.inc.h").write_text(rows)
    shutil.copy(NATIVE / "layout.cpp", folder)
    command = ["c++", "-shared", "-fPIC", "-w", '-DEDGELLM_SOURCE="0"', f"-I{folder}", f"-I{header().parent}"]
    subprocess.run([*command, "-o", folder / "table.so", folder / "layout.cpp"], check=True)
    return folder / "table.so"


def _header(drift: Drift | None, folder: Path) -> str:
    text = header().read_text()
    if drift:
        start, end = _body(text, drift.struct)
        text = text[:start] + "\n".join(drift.apply(_lines(text[start:end]))) + text[end:]
    (folder / "llama.h").write_text(text)
    return text


def _translation(drift: Drift) -> str:
    """C of the functions that take or give the struct."""
    text = header().read_text()
    start, end = _body(text, drift.struct)
    lines = _lines(text[start:end])
    fields = [name for name in map(_name, drift.apply(lines)) if name in set(map(_name, lines))]
    copies = "".join(f" to.{name} = from.{name};" for name in fields)
    functions = _FUNCTIONS[drift.struct]
    # Each function calls its namesake in the library behind.
    functions = re.sub(
        r"(llama_\w+)\(((?:[^()]|\([^()]*\))*)\) \{(.*?)NEXT",
        lambda m: f'{m[1]}({m[2]}) {{{m[3]}dlsym(RTLD_NEXT, "{m[1]}")',
        functions,
        flags=re.DOTALL,
    )
    code = f"""
        REAL {{ {" ".join(lines)} }};
        static NAME drifted(REAL from) {{ NAME to; memset(&to, 0, sizeof to);{copies} return to; }}
        static REAL real(NAME from) {{ REAL to; memset(&to, 0, sizeof to);{copies} return to; }}
        {functions}"""
    return code.replace("NAME", f"struct {drift.struct}").replace("REAL", f"struct real_{drift.struct}")


def _body(text: str, struct: str) -> tuple[int, int]:
    match = re.search(rf"struct {struct} \{{(.*?)\n    \}}", text, re.DOTALL)
    assert match is not None
    return match.span(1)


def _lines(body: str) -> list[str]:
    """Declarations, one each."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", body, flags=re.DOTALL)
    return [f"{' '.join(part.split())};" for part in code.split(";") if part.strip()]


def _name(declaration: str) -> str:
    return re.findall(r"\w+", declaration)[-1]


def _index(lines: Sequence[str], field: str) -> int:
    return [_name(line) for line in lines].index(field)
