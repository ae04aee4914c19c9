"""Asks llama.cpp's own quantizer what it would make of a file: a dry run, which reads no weights and writes nothing."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import llama_cpp

from edgellm.formats.gguf.ggml_types import FILE_TYPES

FTYPES = {name: number for number, name in FILE_TYPES.items()}
_TENSOR = re.compile(r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*\], type = +(\w+), size = .*?(?:\((\w+)\))?$")


class Quantizer:
    """One listener, as the library has one for the process."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._callback = llama_cpp.llama_log_callback(lambda _level, text, _user: self._said.append(text.decode()))

    def types(self, path: Path, quant: str, *, imatrix: bool = False) -> dict[str, str]:
        """Tensor name -> the type it would get, by the names of `ggml_types`.

        Raises:
            RuntimeError: the quantizer gives up, with its last words.
        """
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread, params.dry_run = FTYPES[quant], 1, True
        # An empty list is an importance matrix, too: rules ask whether there is one.
        nothing = (llama_cpp.llama_model_imatrix_data * 1)()
        if imatrix:
            params.imatrix = nothing
        params.allow_requantize = True
        self._said.clear()
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))
        failed = llama_cpp.llama_model_quantize(str(path).encode(), b"", ctypes.byref(params))
        lines = "".join(self._said).splitlines()
        if failed:
            raise RuntimeError(lines[-1] if lines else "no word")
        found = [match for line in lines if (match := _TENSOR.match(line))]
        return {match[1]: (match[3] or match[2]).upper() for match in found}
