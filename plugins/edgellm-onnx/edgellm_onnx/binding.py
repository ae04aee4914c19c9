"""What goes into a run and where its results go, by address: onnxruntime's IOBinding without its Python half.

That half makes a device object for every call: 3 to 4 us, where the library takes 0.5 (a cache that grows is bound
anew at every token, four times a layer). Where the library no longer has that inside, the public call serves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

# onnx.TensorProto.DataType, and numpy's type of the same size.
TYPES: dict[str, tuple[int, type]] = {
    "float32": (1, np.float32), "float16": (10, np.float16), "bfloat16": (16, np.uint16), "int32": (6, np.int32),
    "int64": (7, np.int64), "bool": (9, np.bool_),
}  # fmt: skip


class Binding:
    """Of one session. Addresses are of the machine's own memory, which must live as long as the binding."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._io = session.io_binding()
        raw, device = getattr(self._io, "_iobinding", None), onnxruntime.OrtDevice.make("cpu", 0)
        native = getattr(device, "_get_c_device", None)
        self._raw: Any = None
        self._device: Any = None
        if raw is not None and native is not None:
            self._raw, self._device = raw, native()

    def input(self, name: str, kind: int, shape: tuple[int, ...], address: int) -> None:
        if self._raw is not None:
            self._raw.bind_input(name, self._device, kind, shape, address)
        else:
            self._io.bind_input(name, "cpu", 0, kind, shape, address)

    def output(self, name: str, kind: int, shape: tuple[int, ...], address: int) -> None:
        if self._raw is not None:
            self._raw.bind_output(name, self._device, kind, shape, address)
        else:
            self._io.bind_output(name, "cpu", 0, kind, shape, address)

    def run(self) -> None:
        """Raises what onnxruntime raises."""
        self._session.run_with_iobinding(self._io)
