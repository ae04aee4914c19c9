"""Tries whether a provider starts: `python -m edgellm_onnx.start` prints JSON, the reason why it does not or "".

What is tried, a provider and its options, stands as JSON in the variable `ASKED`. In a process of its own, as it loads
drivers, which may crash or print.
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnxruntime

from edgellm_onnx.probe import OPSET_TRIED, sum_of
from edgellm_onnx.session import assigned, load_vendor_libraries, overhearing, words

ASKED = "ONNX_PROVIDER_TRIED"


def problem(name: str, options: dict[str, str]) -> str:
    """Why a graph of one sum is not computed there; "" = it is."""
    messages: list[str] = []
    native = onnxruntime.SessionOptions()
    native.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        with overhearing(messages):
            load_vendor_libraries(name)
            session = onnxruntime.InferenceSession(
                sum_of(OPSET_TRIED), native, providers=[(name, options)], enable_fallback=0
            )
        if session.get_providers()[0] != name:
            return messages[0] if messages else "onnxruntime does not say why"
        if (nodes := assigned(session)) and not nodes[name]:
            return f"it leaves a sum to {', '.join(nodes)}"
        result = session.run(None, {"a": np.ones(2, np.float32)})[0]
    except Exception as error:
        return words(error)
    return "" if bool((result == 2).all()) else "it computes 1 + 1 wrongly"


def main() -> None:
    asked = json.loads(os.environ[ASKED])
    print(json.dumps({"problem": problem(asked["provider"], asked["options"])}))


if __name__ == "__main__":
    main()
