"""A graph's header is what the onnx library reads, and is refused where it lies."""

import contextlib

import numpy as np
import onnx
import pytest
from edgellm_onnx.reader import protobuf
from edgellm_onnx.reader.graph import read_graph
from edgellm_onnx.reader.protobuf import Message
from edgellm_onnx.reader.summary import facts_of
from edgellm_onnx.reader.tensor import read_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support import onnx_models
from support.onnx_models import Tiny
from support.refusals import refuses

from edgellm.errors import ArtifactError, BadArtifact, UnsupportedArtifact


def written(path, model):
    path.write_bytes(model.SerializeToString() if isinstance(model, onnx.ModelProto) else model)
    return path


def with_tensor(tensor):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "w"], ["b"])], "g", ends[:1], ends[1:], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def plain(name="w"):
    return helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])


@pytest.mark.parametrize("kind", ["shared", "growing", "merged"])
def test_it_is_what_the_onnx_library_reads(tmp_path, kind):
    folder = onnx_models.KINDS[kind](tmp_path, Tiny(bits=4))
    path = next(folder.glob("*.onnx"))

    graph, known = read_graph(path), onnx.load(path)

    assert list(graph.inputs) == [value.name for value in known.graph.input]
    assert list(graph.outputs) == [value.name for value in known.graph.output]
    assert graph.opsets == {entry.domain: entry.version for entry in known.opset_import}
    assert (graph.ir_version, graph.producer) == (known.ir_version, known.producer_name)
    for tensor in known.graph.initializer:
        mine = graph.initializers[tensor.name]
        assert mine.dims == tuple(tensor.dims)
        assert mine.n_bytes == numpy_helper.to_array(tensor).nbytes
    nodes = list(known.graph.node)
    nodes += [node for outer in known.graph.node for at in outer.attribute for node in at.g.node]
    assert sorted((n.op, n.domain, n.inputs, n.outputs) for n in graph.nodes) == sorted(
        (n.op_type, n.domain, tuple(n.input), tuple(n.output)) for n in nodes
    )
    quantized = [node for node in graph.nodes if node.op == "MatMulNBits"]
    assert all(node.ints["block_size"] == 32 and node.ints["bits"] == 4 for node in quantized)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [(TensorProto.FLOAT, [1.5, 2.5]), (TensorProto.INT64, [1, -(2**62)]), (TensorProto.INT8, [1, -1]),
     (TensorProto.DOUBLE, [1.0, 2.0]), (TensorProto.BOOL, [1, 0]), (TensorProto.INT4, [1, -2]),
     (TensorProto.STRING, [b"a", b"b"]), (TensorProto.FLOAT16, [1.0, 2.0])],
)  # fmt: skip
@pytest.mark.parametrize("raw", [False, True])
def test_values_of_every_kind_are_counted(tmp_path, dtype, values, raw):
    if raw and dtype == TensorProto.STRING:
        return
    tensor = helper.make_tensor("w", dtype, [2], values)
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), "w")
    path = written(tmp_path / "m.onnx", with_tensor(tensor))

    assert read_graph(path).initializers["w"].dims == (2,)

    tensor.dims[0] = 200
    with refuses(BadArtifact):
        read_graph(written(path, with_tensor(tensor)))


def test_a_tensor_that_claims_three_gigabytes_is_refused(tmp_path):
    tensor = plain()
    tensor.dims[:] = [3 * 2**28]
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", with_tensor(tensor)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param(lambda t: t.dims.__setitem__(0, -2), BadArtifact, id="a negative dimension"),
        pytest.param(lambda t: setattr(t, "data_type", 99), BadArtifact, id="an unknown type"),
        pytest.param(lambda t: t.dims.extend([1] * 20), UnsupportedArtifact, id="21 axes"),
        pytest.param(lambda t: setattr(t.segment, "begin", 1), UnsupportedArtifact, id="segments"),
    ],
)
def test_a_tensor_that_makes_no_sense_is_refused(tmp_path, change, error):
    tensor = plain()
    change(tensor)
    with refuses(error):
        read_graph(written(tmp_path / "m.onnx", with_tensor(tensor)))


def test_dimensions_are_counted_before_they_are_kept(tmp_path):
    with refuses(BadArtifact):
        Message(bytes([1] * 65), 0, 65, "x").varints(0, 65)
    model = with_tensor(plain())
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [300] * 17))
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", model))


def test_names_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "MAX_HELD_BYTES", 1000)
    read_graph(written(tmp_path / "m.onnx", with_tensor(plain())))
    monkeypatch.setattr(protobuf, "MAX_HELD_BYTES", 200)
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", with_tensor(plain())))


@pytest.mark.parametrize("name", ["num_heads", "kv_num_heads"])
@pytest.mark.parametrize("number", [-1, 65_537, 2**32, 2**62])
def test_a_number_of_heads_that_is_none_is_refused(tmp_path, name, number):
    path = onnx_models.shared(tmp_path) / "model.onnx"
    model = onnx.load(path)
    (attribute, *_) = (at for node in model.graph.node for at in node.attribute if at.name == name)
    attribute.i = number

    with refuses(BadArtifact):
        read_graph(written(path, model))


def test_a_graph_cut_anywhere_is_refused(tmp_path):
    whole = with_tensor(plain()).SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            read_graph(path)
        except BadArtifact:
            refused += 1
    # The operator sets come after the graph, and their version last: only the whole says all.
    assert refused == len(whole)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"GGUF" + b"\0" * 60, b"PK\x03\x04", b'{"a": 1}', b"\0" * 99])
def test_what_is_no_graph_is_named(tmp_path, content):
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", content))


def test_branches_in_branches_without_end_are_refused(tmp_path):
    graph = helper.make_graph([], "g", [], [])
    for depth in range(12):
        graph = helper.make_graph([helper.make_node("If", ["x"], [f"y{depth}"], then_branch=graph)], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", model))


_SEED = with_tensor(plain()).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_SEED) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_is_refused_or_read_and_nothing_else(tmp_path_factory, changes):
    data = bytearray(_SEED)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(ArtifactError):
        read_graph(path)


@pytest.mark.parametrize(
    ("tiny", "quant", "cell"),
    [(Tiny(), "F32", 512), (Tiny(bits=4), "INT4", 512), (Tiny(dtype="float16"), "F16", 256)],
)
def test_a_summary_tells_what_predicting_needs(tmp_path, tiny, quant, cell):
    folder = onnx_models.shared(tmp_path, tiny)

    found = facts_of(folder)

    assert (found.quant, found.ctx_train) == (quant, 512)
    assert found.shape.kv_full_bytes == cell
    assert (found.shape.n_layer, found.shape.n_embd, found.shape.n_ff, found.shape.n_vocab) == (2, 64, 96, 304)
    assert found.file_bytes == (folder / "model.onnx").stat().st_size


def test_what_a_function_takes_by_default_is_read(tmp_path):
    model = with_tensor(plain())
    default = helper.make_attribute("value", plain("default"))
    node, opset = helper.make_node("Identity", ["x"], ["y"]), helper.make_opsetid("", 17)
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], [opset], [], [default]))
    assert "default" in [tensor.name for tensor in read_graph(written(tmp_path / "m.onnx", model)).tensors]


def calling(count, last):
    """A graph with so many functions, each of which calls the next one twice."""
    model = with_tensor(plain())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for number in range(count):
        op, domain = (f"f{number + 1}", "own") if number < count - 1 else last
        pair = [helper.make_node(op, [a], [b], domain=domain) for a, b in ("xy", "yz")]
        model.functions.append(helper.make_function("own", f"f{number}", ["x"], ["z"], pair, opsets))
    model.graph.node.append(helper.make_node("f0", ["b"], ["c"], domain="own"))
    return model


def test_functions_that_call_each_other_are_counted_as_they_are_written_out(tmp_path):
    assert len(read_graph(written(tmp_path / "m.onnx", calling(14, ("Identity", "")))).functions) == 14
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", calling(30, ("Identity", ""))))
    with refuses(BadArtifact):
        read_graph(written(tmp_path / "m.onnx", calling(3, ("f1", "own"))))


def part(number, *contents):
    """A field of a protocol buffer, which is a message of less than 128 bytes."""
    content = b"".join(contents)
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize("twice", ["", "graph", "type", "tensor_type", "shape", "t", "g"])
def test_a_message_that_is_there_twice_is_refused(tmp_path, twice):
    """Protocol buffers merge the two, so what is read of each alone is not what runs."""

    def once(name, *field):
        return part(*field) * (2 if name == twice else 1)

    shape = once("shape", 2, part(1, b"\x08\x02"))
    value = part(1, b"a") + once("type", 2, once("tensor_type", 1, b"\x08\x01" + shape))
    tensor = once("t", 5, plain().SerializeToString())
    inside = once("g", 6, part(1, part(4, b"Add")))
    nodes = [part(1, part(4, b"Op"), part(5, part(1, b"name"), attribute)) for attribute in (tensor, inside)]
    model = part(8, b"\x10\x11") + once("graph", 7, *nodes, part(11, value))
    assert onnx.ModelProto.FromString(model).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT

    path = written(tmp_path / "m.onnx", model)
    if not twice:
        assert read_graph(path).inputs["a"].dims == (2,)
        return
    with refuses(BadArtifact):
        read_graph(path)


def test_a_constant_that_is_sparse_is_refused(tmp_path):
    model = with_tensor(plain())
    places = numpy_helper.from_array(np.array([0]), "places")
    sparse = helper.make_sparse_tensor(helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]), places, [2])
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    with refuses(UnsupportedArtifact):
        read_graph(written(tmp_path / "m.onnx", model))


def test_where_a_tensor_lies_is_told_in_32_bits():
    tensor = plain()
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    usual, longer = b"\x70\x01", b"\x70\x81\x80\x80\x80\x10"  # field 14: 1, and 1 + 2^32
    content = tensor.SerializeToString().replace(usual, longer)
    assert TensorProto.FromString(content).data_location == TensorProto.EXTERNAL
    assert read_tensor(Message(content, 0, len(content), "m"), "m").location == "w.bin"
