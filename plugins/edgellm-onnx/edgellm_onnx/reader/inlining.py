"""How many operators a graph has once its own functions are written out where they are called, as onnx.checker and
onnxruntime do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm_onnx.reader.graph import Node

Function = tuple[str, str]  # domain, name


def count_inlined(nodes: Iterable[Node], functions: Mapping[Function, list[Node]], limit: int) -> int | None:
    """Operators of the graph and of each of its functions, written out.

    A kilobyte of functions that call each other twice has 2^30.

    Args:
        nodes: of the graph, without those of its functions.
        limit: it is not counted much further.

    Returns:
        None where a function calls itself.
    """
    calls = {name: {(n.domain, n.op) for n in body} & functions.keys() for name, body in functions.items()}
    sizes: dict[Function, int] = {}
    try:
        for name in TopologicalSorter(calls).static_order():
            sizes[name] = min(_size(functions[name], sizes), limit + 1)
    except CycleError:
        return None
    return _size(nodes, sizes) + sum(sizes.values())


def _size(nodes: Iterable[Node], sizes: Mapping[Function, int]) -> int:
    return sum(sizes.get((node.domain, node.op), 1) for node in nodes)
