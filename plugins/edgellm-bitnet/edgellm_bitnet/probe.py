"""Asks the native library what it has, in a process of its own: `python -m edgellm_bitnet.probe` prints JSON.

The parent never loads the library: a file built for another processor ends this process, not that one.
"""

from __future__ import annotations

import json

from edgellm.errors import BackendUnavailable
from edgellm_bitnet import native


def main() -> None:
    kernels, best, problem = native.isas(), "", ""
    try:
        best = list(kernels)[native.isa_index()]
    except BackendUnavailable as error:
        problem = f"{error.message}; {error.hint}"
    print(json.dumps({"kernels": kernels, "best": best, "problem": problem}))


if __name__ == "__main__":
    main()
