"""Asks the native library what it has, in a process of its own: `python -m edgellm_bitnet.probe` prints JSON.

The parent never loads the library: a file built for another processor ends this process, not that one.
"""

from __future__ import annotations

import json

from edgellm_bitnet import native


def main() -> None:
    print(json.dumps({"kernels": native.isas(), "best": list(native.isas())[native.isa_index()]}))


if __name__ == "__main__":
    main()
