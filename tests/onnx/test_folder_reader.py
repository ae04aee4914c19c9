"""Which graph of a folder is meant, and that its data files are its own."""

import json
import os

import onnx
import pytest
from edgellm_onnx.reader.folder import data_files, open_folder
from edgellm_onnx.reader.graph import read_graph
from edgellm_onnx.reader.summary import facts_of
from support import onnx_models
from support.onnx_models import Tiny
from support.refusals import refuses

from edgellm.errors import BadArtifact, UnknownModel


@pytest.mark.parametrize(
    ("kind", "graph", "first"),
    [("shared", "model.onnx", None), ("growing", "model.onnx", None), ("merged", "decoder_model_merged.onnx", None),
     ("separate", "decoder_with_past_model.onnx", "decoder_model.onnx")],
)  # fmt: skip
def test_the_graph_of_every_exporter_is_found(tmp_path, kind, graph, first):
    folder = onnx_models.KINDS[kind](tmp_path)

    found = open_folder(folder)

    assert (found.graph.name, found.first and found.first.name) == (graph, first)
    assert open_folder(found.graph) == found


def test_graphs_in_the_hub_s_usual_subfolder(tmp_path):
    onnx_models.growing(tmp_path)
    (tmp_path / "onnx").mkdir()
    for name in ("model_q4.onnx", "model_fp16.onnx"):
        (tmp_path / "onnx" / name).write_bytes((tmp_path / "model.onnx").read_bytes())
    (tmp_path / "model.onnx").unlink()

    with refuses(UnknownModel):
        open_folder(tmp_path)
    named = open_folder(tmp_path / "onnx" / "model_q4.onnx")
    assert (named.path, named.graph.name) == (tmp_path, "model_q4.onnx")
    assert named.config["hidden_size"] == 64


def test_a_configuration_that_names_a_graph_elsewhere(tmp_path):
    folder = onnx_models.shared(tmp_path)
    config = json.loads((folder / "genai_config.json").read_text())
    for name in ("../model.onnx", "gone.onnx"):
        config["model"]["decoder"]["filename"] = name
        (folder / "genai_config.json").write_text(json.dumps(config))
        with refuses(BadArtifact):
            open_folder(folder)


def moved(folder, location):
    """Every external tensor of the model in `folder` is said to be at `location`."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return read_graph(folder / "model.onnx")


@pytest.fixture
def external(tmp_path):
    return onnx_models.shared(tmp_path / "model", Tiny(external=True))


def test_data_files_are_found(external):
    found = data_files(read_graph(external / "model.onnx"))
    assert list(found) == [external / "model.onnx.data"]


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "a/../../secret", "C:\\secret", "..\\secret", "\\\\host\\share", "a\0b", ""],
)
def test_a_path_that_climbs_out_is_refused(external, location):
    (external.parent / "secret").write_bytes(b"x" * 10**6)
    with refuses(BadArtifact):
        data_files(moved(external, location))


def test_a_link_that_leaves_the_folder_is_refused(external):
    data = external / "model.onnx.data"
    data.rename(external.parent / "elsewhere")
    data.symlink_to(external.parent / "elsewhere")
    with refuses(BadArtifact):
        data_files(read_graph(external / "model.onnx"))


def test_the_hub_s_cache_links_into_its_blobs(external):
    hub = external.parent / "models--org--name"
    snapshot = hub / "snapshots" / "abc"
    (hub / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("model.onnx", "model.onnx.data"):
        os.rename(external / name, hub / "blobs" / name[::-1])
        (snapshot / name).symlink_to(f"../../blobs/{name[::-1]}")
    assert list(data_files(read_graph(snapshot / "model.onnx"))) == [snapshot / "model.onnx.data"]


def test_data_that_is_missing_cut_or_no_file(external):
    data = external / "model.onnx.data"
    graph = read_graph(external / "model.onnx")
    size = data.stat().st_size
    os.truncate(data, size - 1)
    with refuses(BadArtifact):
        data_files(graph)
    data.unlink()
    with refuses(BadArtifact):
        data_files(graph)
    data.mkdir()
    with refuses(BadArtifact):
        data_files(graph)


def test_data_with_a_hole_behind_its_tensors_is_refused(external):
    os.truncate(external / "model.onnx.data", 4 * 10**12)
    with refuses(BadArtifact):
        data_files(read_graph(external / "model.onnx"))


def test_data_that_was_appended_to_what_was_there_counts_once(external):
    data, graph = external / "model.onnx.data", read_graph(external / "model.onnx")
    used = data_files(graph)[data]
    data.write_bytes(2 * data.read_bytes())

    assert data_files(graph)[data] == used
    assert facts_of(external).file_bytes == used + (external / "model.onnx").stat().st_size


def test_graphs_that_share_their_data_explain_it_together(external):
    first, later = read_graph(external / "model.onnx"), read_graph(external / "model.onnx")
    held = first.external
    first.tensors, later.tensors = held[:1], held[1:]
    both = data_files(first, later)

    assert both == data_files(read_graph(external / "model.onnx"))


def test_a_tensor_s_length_must_be_its_dimensions(external):
    model = onnx.load(external / "model.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    tensor.dims[0] *= 2
    (external / "model.onnx").write_bytes(model.SerializeToString())
    with refuses(BadArtifact):
        read_graph(external / "model.onnx")
