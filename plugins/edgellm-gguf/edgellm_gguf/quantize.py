"""llama.cpp's own quantizer (`llama_model_quantize`). In a worker only: it is native code, and cannot be interrupted.

Tensor names and counts come from its log, as it has no callback. Buffers are kept to 256 MiB, where the library's
default is 8 GiB.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgellm.contract.quantizer import Quantization, TensorProgress
from edgellm.errors import BackendError, BadArtifact, DiskFull
from edgellm.formats.gguf.ggml_types import FILE_TYPES
from edgellm.formats.gguf.imatrix import read_imatrix
from edgellm_gguf.log import Log

FTYPES = {name: number for number, name in FILE_TYPES.items()}
BUFFER_BYTES = 256 * 1024**2
_TENSOR = re.compile(r"^\[ *(\d+)/ *(\d+)\] +(\S+)")
_FULL_BYTES = 1024**2


class _Progress(Log):
    """Reads from the library's log which tensor is next."""

    def __init__(self, progress: TensorProgress) -> None:
        super().__init__()
        self._progress = progress

    def _hear(self, level: int, text: bytes, user: object) -> None:
        if match := _TENSOR.match(text.decode("utf-8", "replace")):
            self._progress(int(match[1]) - 1, int(match[2]), match[3])
        else:
            super()._hear(level, text, user)


def run(job: Quantization, progress: TensorProgress) -> None:
    """Write `job.target`.

    Raises:
        BackendError: the library gave up. DiskFull: no room. BadArtifact: the importance matrix cannot be used.
    """
    log = _Progress(progress)
    log.start()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[job.quant], job.n_threads
    params.allow_requantize, params.max_buf_size = job.allow_requantize, BUFFER_BYTES
    data = _imatrix(job.imatrix) if job.imatrix else None
    if data is not None:
        params.imatrix = data[0]
    source = os.fsencode(job.source.path)
    failed = llama_cpp.llama_model_quantize(source, os.fsencode(job.target), ctypes.byref(params))
    if not failed:
        return
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(job.target))).free
    if free < _FULL_BYTES:
        raise DiskFull(f"no room for {job.target}: {free} bytes are free", hint="make room or choose another folder")
    raise BackendError(f"llama.cpp cannot make {job.quant} of {job.source.path}{log.last()}")


def _imatrix(path: str) -> tuple[Any, list[npt.NDArray[np.float32]]]:
    """The library's list of entries, and the arrays that it points into.

    Values are mean squares; where an expert saw no token, all inputs count the same (llama.cpp, tools/quantize).
    """
    matrix = read_imatrix(path)
    raw = np.memmap(path, np.uint8, "r")
    order = ">f4" if matrix.header.big_endian else "<f4"
    values = []
    items = (llama_cpp.llama_model_imatrix_data * (len(matrix.entries) + 1))()
    for item, (name, entry) in zip(items, matrix.entries.items(), strict=False):
        parts = [raw[t.offset : t.offset + t.n_bytes].view(order) for t in (entry.sums, entry.counts)]
        sums, counts = parts[0].reshape(parts[1].size, -1), parts[1].reshape(-1, 1)
        _check(path, name, sums, counts)
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32).ravel()
        values.append(mean)
        item.name, item.size = name.encode(), mean.size
        item.data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return items, values


def _check(path: str, name: str, sums: npt.NDArray[np.float32], counts: npt.NDArray[np.float32]) -> None:
    """Native code weighs errors by them, and ends or writes noise where a weight is no number, or negative."""
    wrong_sums = sums[~(np.isfinite(sums) & (sums >= 0))]
    wrong_counts = counts[~(np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts)))]
    if wrong_sums.size:
        why = f"a sum of squares is {wrong_sums[0]}"
    elif wrong_counts.size:
        why = f"a count of tokens is {wrong_counts[0]}"
    elif not counts.any():
        why = "it is of no token"
    else:
        return
    raise BadArtifact(f"{path}: {name}: {why}", hint="make it anew with llama-imatrix")
