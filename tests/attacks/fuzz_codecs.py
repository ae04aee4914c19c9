"""Fuzzes the ternary codecs: `make fuzz FUZZ=codecs ARGS="--seconds 1200"`.

An input is one byte that picks the format, two for the shape, then a tensor's data. Whatever is accepted has to come
back as the same weights when it is written again.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from attacks.fuzzing import instrumented, run

with instrumented("edgellm_bitnet.codecs"):
    from edgellm_bitnet.codecs import i2_s, master, packed, q1_0, q2_0, tq1_0, tq2_0

from edgellm_bitnet.ternary import Ternary

from edgellm.errors import EdgeLLMError

BLOCKS = [tq2_0, tq1_0, q2_0, q1_0]


def read(data: bytes) -> None:
    """Raises AssertionError where what was accepted does not come back."""
    if len(data) < 3:
        return
    kind, rows, cols, raw = data[0] % 7, data[1] % 9, data[2] % 5 * 64, data[3:]
    with contextlib.suppress(EdgeLLMError):
        if kind < 4:
            codec = BLOCKS[kind]
            found = codec.decode(raw, rows, cols, where="fuzz")
            again = codec.decode(codec.encode(found), rows, cols)
        elif kind == 4:
            found = i2_s.decode(raw, rows, cols, layout="arm" if data[0] > 127 else "x86", where="fuzz")
            again = found if cols % 128 else i2_s.decode(i2_s.encode(found), rows, cols)
        elif kind == 5:
            scale = float(np.frombuffer(raw[:4].ljust(4, b"\0"), "<f4")[0])
            found = packed.decode(raw[4:], rows, cols, weight_scale=scale, linear_class="bitlinear", where="fuzz")
            again = Ternary(found.codes, found.scales)
        else:
            dtype = ("F32", "F16", "BF16")[data[0] % 3]
            found = master.decode(raw, rows, cols, dtype=dtype, trained=data[1] > 127, where="fuzz")
            again = Ternary(found.codes, found.scales, found.group)
        assert (found.dense() == again.dense()).all()


def seeds() -> list[bytes]:
    """A sound tensor of each format."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (4, 256), np.uint8) * np.uint8(2)
    ternary = Ternary(codes, np.asarray(np.float32(0.5)))
    made = [bytes([kind, 4, 4]) + codec.encode(ternary) for kind, codec in enumerate(BLOCKS)]
    made += [bytes([4, 4, 4]) + i2_s.encode(ternary), bytes([4 + 7 * 19, 4, 4]) + i2_s.encode(ternary, layout="arm")]
    made.append(bytes([5, 4, 4]) + np.float32(2).tobytes() + packed.encode(ternary, linear_class="bitlinear")[0])
    return [*made, bytes([6, 4, 4]) + master.encode(ternary, dtype="F32"), bytes([6, 255, 1])]


if __name__ == "__main__":
    with np.errstate(all="raise", under="ignore"):
        run("codecs", read, seeds())
