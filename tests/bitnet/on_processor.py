"""Every usable instruction set against plain Python: run by an emulator of processors that numpy is too new for.

Prints the usable ones. Argument: the file of edgellm_bitnet.native.
"""

from __future__ import annotations

import ctypes
import importlib.util
import random
import sys

ROWS, COLS = 40, 256
TERNARY, Q6, Q8, F32 = 0, 2, 3, 6


def main(source: str) -> None:
    spec = importlib.util.spec_from_file_location("native", source)
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    lib, rng = native.library(), random.Random(0)
    data, scales = (ctypes.c_uint8 * (64 * COLS // 4))(), (ctypes.c_float * 64)()
    weights = native.Matrix(TERNARY, ROWS, COLS, 0, ctypes.addressof(data), ctypes.addressof(scales), None)
    codes = (ctypes.c_uint8 * (ROWS * COLS))(*[rng.randrange(3) for _ in range(ROWS * COLS)])
    assert lib.bn_pack_ternary(0, ctypes.addressof(codes), ROWS, COLS, weights, 0, 1.0, 1) == 0
    for isa, usable in enumerate(native.isas().values()):
        for tokens in (1, 2, 7, 13) if usable else ():
            values = [rng.choice([-128, 127, rng.randrange(-128, 128)]) for _ in range(tokens * COLS)]
            given, sums = (ctypes.c_int8 * len(values))(*values), (ctypes.c_int32 * (tokens * 64))()
            assert lib.bn_integer_sums(isa, weights, ctypes.addressof(given), tokens, ctypes.addressof(sums)) == 0
            for t in range(tokens):
                q = values[t * COLS : (t + 1) * COLS]
                for row in range(ROWS):
                    wanted = sum((codes[row * COLS + i] - 1) * q[i] for i in range(COLS))
                    assert sums[t * 64 + row] == wanted, (isa, tokens, t, row, sums[t * 64 + row], wanted)
        if usable:
            heads(lib, native, isa)
    print(" ".join(isa for isa, usable in native.isas().items() if usable))


def heads(lib: ctypes.CDLL, native: object, isa: int) -> None:
    """Quantization, half scales, six-bit, eight-bit and float weights. They are constant, so that a sum tells."""
    x = (ctypes.c_float * (3 * COLS))(*[1.0] * (3 * COLS))
    half, n = 0x3800, 64 * COLS  # 0.5 as IEEE binary16
    for kind, group, n_bytes, code in ((Q6, 256, n * 3 // 4, 0), (Q8, 32, n, 130), (F32, 0, ROWS * COLS * 4, 0)):
        data, y = (ctypes.c_uint8 * n_bytes)(*[code] * n_bytes), (ctypes.c_float * (3 * 64))()
        scales = (ctypes.c_uint16 * (n // (group or COLS)))(*[half] * (n // (group or COLS)))
        sub = (ctypes.c_int8 * (n // 16))(*[3] * (n // 16))
        if kind == F32:
            ctypes.memmove(data, (ctypes.c_float * (ROWS * COLS))(*[0.25] * (ROWS * COLS)), n_bytes)
        wanted = {Q6: -32 * 3 * 0.5 * COLS, Q8: 2 * 0.5 * COLS, F32: 0.25 * COLS}[kind]
        weights = native.Matrix(kind, ROWS, COLS, group, *map(ctypes.addressof, (data, scales, sub)))
        assert lib.bn_matmul(isa, weights, ctypes.addressof(x), 3, 0, ctypes.addressof(y), 1, 0) >= 0
        for t in range(3):
            for row in range(ROWS):
                found = y[t * 64 + row]
                assert abs(found - wanted) < 1e-3 * abs(wanted), (isa, kind, t, row, found, wanted)


main(sys.argv[1])
