"""Asks onnxruntime what it has, in a process of its own: `python -m edgellm_onnx.probe` prints JSON.

The parent never loads the library: one built for another processor ends this process, not that one.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

NEWEST = 64  # operator sets are tried downwards from here
OPSET_TRIED = 17  # that every provider has


def main() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    operators: dict[str, set[str]] = {}
    for schema in get_all_operator_schema():
        operators.setdefault(schema.domain, set()).add(schema.name)
    facts = {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
        "opset": next(version for version in range(NEWEST, 0, -1) if _runs(version)),
        "operators": {domain: sorted(names) for domain, names in operators.items()},
    }
    print(json.dumps(facts))


def sum_of(opset: int) -> bytes:
    """A graph `b = a + a` of two numbers."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "a"], ["b"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    serialized: bytes = onnx.ModelProto.SerializeToString(model)
    return serialized


def _runs(opset: int) -> bool:
    """Whether a graph of one sum is computed, and rightly."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(sum_of(opset), options, providers=["CPUExecutionProvider"])
        return bool((session.run(None, {"a": np.ones(2, np.float32)})[0] == 2).all())
    except Exception:
        return False


if __name__ == "__main__":
    main()
