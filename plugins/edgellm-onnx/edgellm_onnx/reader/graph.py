"""An ONNX graph without its weights: what goes in and out, its operators, and where each tensor's bytes are.

Reads the file field by field (see `protobuf`), so a graph with gigabytes of weights in it costs no more than one
without. Sizes are checked against what is there.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.files import open_named
from edgellm.formats.sniff import sniff
from edgellm_onnx.reader import fields
from edgellm_onnx.reader.inlining import Function, count_inlined
from edgellm_onnx.reader.protobuf import BYTES, Message, signed
from edgellm_onnx.reader.tensor import DTYPES, MAX_RANK, Tensor, read_tensor

MAX_GRAPH_BYTES = 2**31  # protocol buffers end there
MAX_NODES, MAX_TENSORS, MAX_DEPTH = 200_000, 200_000, 8
# Attributes of attention: with a number that 32 bits do not hold, onnxruntime divides by zero and ends.
HEADS, MAX_HEADS = ("num_heads", "kv_num_heads", "q_num_heads"), 65_536


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output. A dimension is a number, or a name where it may change."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    op: str
    domain: str  # "" = ONNX's own
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: dict[str, int]  # attributes that are one whole number
    inside: bool = False  # of a branch or loop of another node


@dataclass(slots=True)
class OnnxGraph:
    where: str
    file_bytes: int = 0
    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)  # domain -> version; "" = ONNX's own
    inputs: dict[str, Value] = field(default_factory=dict)  # those with an initializer too: they may be left out
    outputs: dict[str, Value] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)  # initializers and constants, of branches too
    initializers: dict[str, Tensor] = field(default_factory=dict)  # of the graph itself
    nodes: list[Node] = field(default_factory=list)
    functions: dict[Function, list[Node]] = field(default_factory=dict)  # that the file defines itself, of `nodes`

    @property
    def external(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors if tensor.location]

    @property
    def tensor_bytes(self) -> int:
        """Of all constants; one that lies in a data file under two names counts once."""
        places = {(t.location, t.offset) if t.location else (t.name, index): t for index, t in enumerate(self.tensors)}
        return sum(tensor.n_bytes for tensor in places.values())


def read_graph(path: str | Path) -> OnnxGraph:
    """
    Raises:
        BadArtifact: missing, cut, no ONNX model, or a tensor whose size is not that of its bytes.
        UnsupportedArtifact: larger than a protocol buffer can be, or a kind of tensor that is not read here.
    """
    try:
        with open_named(path) as file:
            n_bytes = file.seek(0, 2)
            if n_bytes == 0:
                raise BadArtifact(f"{path} is empty", hint="fetch it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                kind, words = sniff(buffer[:64])
                if kind not in ("unknown", "text"):
                    raise BadArtifact(f"{path} is not an ONNX model: it is {words}", hint="fetch the model again")
                if n_bytes >= MAX_GRAPH_BYTES:
                    raise UnsupportedArtifact(
                        f"{path} has {n_bytes} bytes; an ONNX graph is smaller than 2 GiB",
                        hint="keep its weights in a file beside it (external data)",
                    )
                graph = OnnxGraph(str(path), n_bytes)
                _Reader(graph).model(Message(buffer, 0, n_bytes, str(path)))
                return graph
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}", hint="fetch the whole folder") from error


class _Reader:
    """Fills a graph from the messages of its file."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph

    def model(self, message: Message) -> None:
        has_graph = False
        for number, wire, at, size in message.once(fields.Model.GRAPH):
            if number == fields.Model.IR_VERSION:
                self._graph.ir_version = at
            elif number == fields.Model.PRODUCER_NAME and wire == BYTES:
                self._graph.producer = message.text(at, size)
            elif number == fields.Model.OPSET_IMPORT and wire == BYTES:
                domain, version = self._opset(message.message(at, size))
                self._graph.opsets["" if domain == "ai.onnx" else domain] = version
            elif number == fields.Model.FUNCTIONS and wire == BYTES:
                self._function(message.message(at, size))
            elif number == fields.Model.GRAPH and wire == BYTES:
                has_graph = True
                self._graph_of(message.message(at, size), 0)
        if not has_graph or not self._graph.opsets:
            message.fail(message.end, "ends without a graph and the operator sets it needs")
        self._check_functions(message)

    def _check_functions(self, message: Message) -> None:
        functions = self._graph.functions
        of_functions = {id(node) for body in functions.values() for node in body}
        own = [node for node in self._graph.nodes if id(node) not in of_functions]
        count = count_inlined(own, functions, MAX_NODES)
        if count is None:
            message.fail(message.end, "has a function that calls itself")
        if count > MAX_NODES:
            message.fail(message.end, f"has more than {MAX_NODES} operators where its functions are called")

    def _opset(self, message: Message) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, at, size in message:
            if number == fields.Opset.DOMAIN and wire == BYTES:
                domain = message.text(at, size)
            elif number == fields.Opset.VERSION and wire != BYTES:
                version = at
        return domain, version

    def _function(self, message: Message) -> None:
        domain = name = ""
        first = len(self._graph.nodes)
        for number, wire, at, size in message:
            if wire != BYTES:
                continue
            if number == fields.Function.NAME:
                name = message.text(at, size)
            elif number == fields.Function.DOMAIN:
                domain = message.text(at, size)
            elif number == fields.Function.NODE:
                self._node(message.message(at, size), 1)
            elif number == fields.Function.ATTRIBUTE_PROTO:
                deque(self._attribute(message.message(at, size), 1), maxlen=0)
        domain = "" if domain == "ai.onnx" else domain
        # Of two with one name, which another field may tell apart, the operators count together.
        self._graph.functions.setdefault((domain, name), []).extend(self._graph.nodes[first:])

    def _graph_of(self, message: Message, depth: int) -> None:
        if depth > MAX_DEPTH:
            message.fail(message.start, f"holds branches in branches, more than {MAX_DEPTH} deep")
        graph = self._graph
        for number, wire, at, size in message:
            if wire != BYTES:
                continue
            inner = message.message(at, size)
            if number == fields.Graph.NODE:
                self._node(inner, depth)
            elif number == fields.Graph.INITIALIZER:
                tensor = self._tensor(inner)
                if depth == 0:
                    if tensor.name in graph.initializers:
                        message.fail(at, f"holds tensor {tensor.name!r} twice")
                    graph.initializers[tensor.name] = tensor
            elif number in (fields.Graph.INPUT, fields.Graph.OUTPUT) and depth == 0:
                value = self._value(inner)
                (graph.inputs if number == fields.Graph.INPUT else graph.outputs)[value.name] = value
            elif number == fields.Graph.SPARSE_INITIALIZER:
                raise self._sparse()

    def _sparse(self) -> UnsupportedArtifact:
        return UnsupportedArtifact(f"{self._graph.where} holds sparse tensors", hint="store its weights densely")

    def _node(self, message: Message, depth: int) -> None:
        op = domain = ""
        inputs: list[str] = []
        outputs: list[str] = []
        ints: dict[str, int] = {}
        for number, wire, at, size in message:
            if wire != BYTES:
                continue
            if number == fields.Node.INPUT:
                inputs.append(message.text(at, size))
            elif number == fields.Node.OUTPUT:
                outputs.append(message.text(at, size))
            elif number == fields.Node.OP_TYPE:
                op = message.text(at, size)
            elif number == fields.Node.DOMAIN:
                domain = message.text(at, size)
            elif number == fields.Node.ATTRIBUTE:
                ints.update(self._attribute(message.message(at, size), depth))
        for name in HEADS:
            if not 0 <= ints.get(name, 0) <= MAX_HEADS:
                message.fail(message.start, f"has an operator {op[:40]!r} with {name} {ints[name]}")
        domain = "" if domain == "ai.onnx" else domain
        self._graph.nodes.append(Node(op, domain, tuple(inputs), tuple(outputs), ints, depth > 0))
        if len(self._graph.nodes) > MAX_NODES:
            message.fail(message.start, f"has more than {MAX_NODES} operators")

    def _attribute(self, message: Message, depth: int) -> Iterator[tuple[str, int]]:
        name, whole = "", None
        for number, wire, at, size in message.once(fields.Attribute.TENSOR, fields.Attribute.GRAPH):
            if number == fields.Attribute.NAME and wire == BYTES:
                name = message.text(at, size)
            elif number == fields.Attribute.INT and wire != BYTES:
                whole = signed(at)
            elif number in (fields.Attribute.TENSOR, fields.Attribute.TENSORS) and wire == BYTES:
                self._tensor(message.message(at, size))
            elif number in (fields.Attribute.GRAPH, fields.Attribute.GRAPHS) and wire == BYTES:
                self._graph_of(message.message(at, size), depth + 1)
            elif number in (fields.Attribute.SPARSE_TENSOR, fields.Attribute.SPARSE_TENSORS):
                raise self._sparse()
        if whole is not None:
            yield name, whole

    def _value(self, message: Message) -> Value:
        name, dtype = "", ""
        dims: tuple[int | str, ...] = ()
        for number, wire, at, size in message.once(fields.Value.TYPE):
            if number == fields.Value.NAME and wire == BYTES:
                name = message.text(at, size)
            elif number == fields.Value.TYPE and wire == BYTES:
                kind = message.message(at, size)
                for inner, _, start, length in kind.once(fields.Type.TENSOR):
                    # Sequences, maps and optional values have other numbers and stay without a type.
                    if inner == fields.Type.TENSOR:
                        dtype, dims = self._type(kind.message(start, length))
        return Value(name, dtype, dims)

    def _type(self, message: Message) -> tuple[str, tuple[int | str, ...]]:
        dtype = ""
        dims: list[int | str] = []
        for number, wire, at, size in message.once(fields.TensorType.SHAPE):
            if number == fields.TensorType.ELEM_TYPE and wire != BYTES:
                dtype = DTYPES.get(at, ("", 0))[0]
            elif number == fields.TensorType.SHAPE and wire == BYTES:
                shape = message.message(at, size)
                for _, _, start, length in shape:
                    dims.append(_dimension(shape.message(start, length)))
                    if len(dims) > MAX_RANK:
                        shape.fail(start, f"has an input or output of more than {MAX_RANK} axes")
        return dtype, tuple(dims)

    def _tensor(self, message: Message) -> Tensor:
        tensor = read_tensor(message, self._graph.where)
        self._graph.tensors.append(tensor)
        if len(self._graph.tensors) > MAX_TENSORS:
            message.fail(message.start, f"has more than {MAX_TENSORS} tensors")
        return tensor


def _dimension(message: Message) -> int | str:
    size_or_name: int | str = ""
    for number, wire, at, size in message:
        if number == fields.Dimension.VALUE and wire != BYTES:
            size_or_name = signed(at)
        elif number == fields.Dimension.PARAM and wire == BYTES:
            size_or_name = message.text(at, size)
    return size_or_name
