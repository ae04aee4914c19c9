"""Addresses of a run's inputs and outputs: onnxruntime's IOBinding without its Python part.

The Python part makes a device object for every call, which takes 3 to 4 us where the library takes 0.5. A cache that
grows is bound anew at every token, four times a layer. Where onnxruntime no longer has the attributes that this needs,
the public calls are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from edgellm_onnx.providers import CPU

# onnx.TensorProto.DataType, and numpy's type of the same size.
TYPES: dict[str, tuple[int, type]] = {
    "float32": (1, np.float32), "float16": (10, np.float16), "bfloat16": (16, np.uint16), "int32": (6, np.int32),
    "int64": (7, np.int64), "bool": (9, np.bool_),
}  # fmt: skip


class Binding:
    """Of one session. Addresses are of memory that must live as long as the binding; caches may lie on a device."""

    def __init__(self, session: onnxruntime.InferenceSession, memory: str = "") -> None:
        """`memory`: of caches, as onnxruntime names it; "" = the machine's own."""
        self._session = session
        # What lies in RAM is copied to another provider when it is bound, not when it is used.
        self._again: dict[str, tuple[Any, ...]] | None = None if session.get_providers()[0] == CPU else {}
        self._io = session.io_binding()
        native = getattr(self._io, "_iobinding", None)
        device_of = getattr(onnxruntime.OrtDevice.make("cpu", 0), "_get_c_device", None)
        self._binding: Any = self._io
        self._ram: tuple[Any, ...] = ("cpu", 0)
        self._cache: tuple[Any, ...] = (memory or "cpu", 0)
        if native is not None and device_of is not None:
            self._binding, self._ram = native, (device_of(),)
            self._cache = (onnxruntime.OrtDevice.make(memory or "cpu", 0)._get_c_device(),)

    def input(self, name: str, kind: int, shape: tuple[int, ...], address: int, *, cache: bool = False) -> None:
        self._binding.bind_input(name, *(self._cache if cache else self._ram), kind, shape, address)
        if self._again is not None:
            self._again[name] = (*(self._cache if cache else self._ram), kind, shape, address)

    def output(self, name: str, kind: int, shape: tuple[int, ...], address: int, *, cache: bool = False) -> None:
        self._binding.bind_output(name, *(self._cache if cache else self._ram), kind, shape, address)

    def run(self) -> None:
        """Raises what onnxruntime raises."""
        for name, bound in (self._again or {}).items():
            self._binding.bind_input(name, *bound)
        self._session.run_with_iobinding(self._io)
