"""A model goes into an OCI layout and comes out of it the same, and what somebody changed in between is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from support.refusals import check_refusal, refuses
from support.tiny_models import MODELS

from edgellm.app import launch
from edgellm.catalog.identify import identify
from edgellm.cli.main import cli
from edgellm.errors import BadArtifact, DiskFull, UnsupportedArtifact, UsageError
from edgellm.formats.oci import layout, modelpack
from edgellm.formats.oci.layout import Descriptor, ImageManifest, Layout
from edgellm.image.writer import LayoutWriter, record_bytes, writing_layout
from edgellm.store.modelpack import unpacked
from edgellm.types.request import SelectionRequest


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replace(MODELS["llama-grouped"], n_layer=1).write(tmp_path_factory.mktemp("toy"))


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["image", *map(str, arguments)])
    assert (result.exception is None) == (code == 0), result.output
    return result


def packed(folder: Path, layers: list[tuple[bytes, str, str]], tag: str = "latest") -> Path:
    """A layout with an artifact of such layers: bytes, media type, name."""
    with writing_layout(folder, tag, force=True) as writer:
        rows = tuple(
            writer.put(data, kind, annotations={modelpack.FILE_PATH: name} if name else {})
            for data, kind, name in layers
        )
        config = writer.put(b"{}", modelpack.CONFIG_TYPE)
        manifest = ImageManifest(
            schema_version=2, media_type=layout.MANIFEST_TYPE, artifact_type=modelpack.ARTIFACT_TYPE, config=config,
            layers=rows,
        )  # fmt: skip
        writer.finish(manifest, tag)
    return folder


def manifest_of(folder: Path) -> ImageManifest:
    (row,) = Layout(folder).index().manifests
    return Layout(folder).manifest(row)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_layer_is_the_file_itself(toy, own_home, tmp_path):
    invoke("model", toy, "-o", tmp_path / "x")
    manifest = manifest_of(tmp_path / "x")

    (layer,) = manifest.layers
    assert layer.sha256 == hashlib.sha256(toy.read_bytes()).hexdigest()
    assert (layer.media_type, layer.annotations) == (modelpack.WEIGHT, {modelpack.FILE_PATH: toy.name})
    assert manifest.artifact_type == modelpack.ARTIFACT_TYPE
    config = json.loads(Layout(tmp_path / "x").read(manifest.config))
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer.digest]}
    assert config["config"]["format"] == "gguf"


def test_it_comes_out_again(toy, own_home, tmp_path):
    invoke("model", toy, "-o", tmp_path / "x", "--tag", "1.0")

    for name in ("x", "x:1.0"):
        path = unpacked(tmp_path / name)
        assert path is not None
        assert (path.name, path.read_bytes()) == (toy.name, toy.read_bytes())
        assert path.resolve().is_relative_to(tmp_path / "x")  # not copied


def test_two_may_open_it_at_once(toy, own_home, tmp_path, monkeypatch):
    invoke("model", toy, "-o", tmp_path / "x")
    symlink = os.symlink

    def after_another(target: Path, path: Path) -> None:
        monkeypatch.setattr(os, "symlink", symlink)
        assert unpacked(tmp_path / "x") is not None
        symlink(target, path)

    monkeypatch.setattr(os, "symlink", after_another)
    path = unpacked(tmp_path / "x")

    assert path is not None
    assert path.read_bytes() == toy.read_bytes()
    assert [one.name for one in path.parent.iterdir()] == [toy.name]


def test_a_manifest_that_many_rows_name_is_read_once(own_home, tmp_path, monkeypatch):
    folder = packed(tmp_path / "x", GOOD)
    index = json.loads((folder / "index.json").read_bytes())
    index["manifests"] *= 100
    (folder / "index.json").write_text(json.dumps(index))
    n_read, read = 0, Layout.manifest

    def counted(self: Layout, row: Descriptor) -> ImageManifest:
        nonlocal n_read
        n_read += 1
        return read(self, row)

    monkeypatch.setattr(Layout, "manifest", counted)
    with refuses(UsageError, param="model"):
        unpacked(folder)
    assert n_read == 1


def test_commands_take_the_folder(toy, own_home, tmp_path):
    invoke("model", toy, "-o", tmp_path / "x")
    of_file, of_layout = (
        CliRunner().invoke(cli, ["show", str(path), "--json"]).stdout for path in (toy, tmp_path / "x")
    )

    assert json.loads(of_layout)["id"] == json.loads(of_file)["id"]


def test_two_are_the_same(toy, own_home, tmp_path):
    made = [json.loads(invoke("model", toy, "-o", tmp_path / name, "--json").stdout) for name in ("x", "y")]

    assert made[0]["digest"] == made[1]["digest"]
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_a_layout_holds_several(toy, own_home, tmp_path):
    for tag in ("2", "1"):
        invoke("model", toy, "-o", tmp_path / "x", "--tag", tag)

    assert [row.tag for row in Layout(tmp_path / "x").index().manifests] == ["1", "2"]
    with refuses(UsageError, param="model"):
        unpacked(tmp_path / "x")
    with refuses(UsageError, param="model"):
        unpacked(tmp_path / "x:3")


def test_parts_of_a_split_model_get_their_names(own_home, tmp_path):
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    folder = packed(tmp_path / "x", [(name.encode(), modelpack.WEIGHT, name) for name in reversed(names)])

    path = unpacked(folder)
    assert path is not None
    assert path.name == names[0]
    assert (path.parent / names[1]).read_bytes() == names[1].encode()


def test_files_beside_the_weights_make_a_folder(own_home, tmp_path):
    layers = [
        (b"{}", modelpack.WEIGHT_CONFIG, "config.json"),
        (b"x", modelpack.WEIGHT, "model.onnx"),
        (b"read me", "application/vnd.cncf.model.doc.v1.tar", "README.md"),
    ]
    path = unpacked(packed(tmp_path / "x", layers))

    assert path is not None
    assert sorted(child.name for child in path.iterdir()) == ["config.json", "model.onnx"]


def test_a_folder_that_is_no_layout_is_none(tmp_path):
    assert unpacked(tmp_path) is None
    assert unpacked(tmp_path / "gone") is None


def test_what_was_taken_is_not_replaced_unasked(toy, own_home, tmp_path):
    invoke("model", toy, "-o", tmp_path / "x")
    before = contents(tmp_path / "x")

    result = invoke("model", toy, "-o", tmp_path / "x", code=2)
    check_refusal(result.exception, UsageError, param="tag")
    assert contents(tmp_path / "x") == before
    invoke("model", toy, "-o", tmp_path / "x", "--force")


@pytest.mark.parametrize("tag", ["", "a/b", "x" * 129, "a b"])
def test_a_tag_is_a_word(tag, tmp_path):
    with refuses(UsageError, param="tag"), writing_layout(tmp_path / "x", tag, force=False):
        pass


def test_another_folder_is_left_alone(toy, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "letter.txt").write_text("dear")

    with refuses(UsageError, param="output"), writing_layout(tmp_path / "x", "latest", force=True):
        pass
    assert contents(tmp_path / "x") == {"letter.txt": b"dear"}


def test_a_full_disk_leaves_nothing(toy, own_home, tmp_path, monkeypatch):
    def full(self: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgellm.image.writer.Blob.write", full)
    result = invoke("model", toy, "-o", tmp_path / "x", code=5)

    check_refusal(result.exception, DiskFull)
    assert not (tmp_path / "x").exists()


def test_killed_at_any_step_it_is_old_or_new(own_home, tmp_path, monkeypatch):
    """At each call that names, forces or opens a file; whatever is left, the next writing mends it."""
    old, new = [(b"old", modelpack.WEIGHT, "a.gguf")], [(b"new", modelpack.WEIGHT, "a.gguf")]
    expected = contents(packed(packed(tmp_path / "whole", old), new))
    seen = set()
    monkeypatch.setattr(LayoutWriter, "undo", lambda self: None)  # a killed process tidies nothing
    for no in range(1000):
        folder = packed(tmp_path / f"x{no}", old)
        calls = 0

        def counted(real: Any, last: int = no) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > last:
                    raise KeyboardInterrupt
                return real(*arguments, **more)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                packed(folder, new)
                is_done = True
            except KeyboardInterrupt:
                is_done = False
        path = unpacked(folder)
        assert path is not None
        seen.add(path.read_bytes())
        assert contents(packed(folder, new)) == expected
        if is_done:
            break
    assert seen == {b"old", b"new"}
    assert no > 8


def changed(folder: Path, **changes: Any) -> Path:
    """The layout with another manifest in the old one's place."""
    manifest = msgspec.structs.replace(manifest_of(folder), **changes)
    with writing_layout(folder, "latest", force=True) as writer:
        writer.finish(manifest, "latest")
    return folder


GOOD = [(b"weights", modelpack.WEIGHT, "a.gguf")]


@pytest.mark.parametrize(
    "name", ["../a.gguf", "/etc/passwd", "b/a.gguf", ".a.gguf", "-a.gguf", "a\0.gguf", "a b.gguf", "x" * 300]
)
def test_names_that_lead_elsewhere_are_refused(name, own_home, tmp_path):
    folder = packed(tmp_path / "x", [(b"weights", modelpack.WEIGHT, name)])

    with refuses(BadArtifact):
        unpacked(folder)
    assert not (own_home / "cache" / "modelpack").exists()


@pytest.mark.parametrize(
    ("layers", "kind"),
    [
        ([*GOOD, (b"more", modelpack.WEIGHT, "A.gguf")], BadArtifact),
        ([(b"x", "application/vnd.cncf.model.weight.v1.tar", "a.gguf")], UnsupportedArtifact),
        ([(b"x", "application/vnd.cncf.model.weight.v1.tar+gzip", "a.gguf")], UnsupportedArtifact),
        ([(b"{}", modelpack.WEIGHT_CONFIG, "config.json")], UnsupportedArtifact),
        ([], UnsupportedArtifact),
    ],
    ids=["one-name-twice", "tar", "gzip", "no-weights", "no-layers"],
)
def test_artifacts_of_another_form_are_refused(layers, kind, own_home, tmp_path):
    with refuses(kind):
        unpacked(packed(tmp_path / "x", layers))


def test_any_flipped_byte_is_noticed(own_home, tmp_path):
    """In the blobs, whose hashes stand above them."""
    folder = packed(tmp_path / "x", GOOD)
    (row,) = Layout(folder).index().manifests
    blobs = [row, *manifest_of(folder).layers]
    for blob in blobs:
        path = Layout(folder).blob(blob)
        content = path.read_bytes()
        for at in range(len(content)):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(BadArtifact):
                unpacked(folder)
        path.write_bytes(content)
    assert unpacked(folder) is not None


def test_a_link_in_a_blobs_place_is_not_followed(own_home, tmp_path):
    folder = packed(tmp_path / "x", GOOD)
    (layer,) = manifest_of(folder).layers
    blob = Layout(folder).blob(layer)
    (tmp_path / "outside").write_bytes(b"weights")
    blob.unlink()
    blob.symlink_to(tmp_path / "outside")

    with refuses(BadArtifact):
        unpacked(folder)


@pytest.mark.parametrize("size", [0, 6, 8, 2**50])
def test_a_size_that_lies_is_refused(size, own_home, tmp_path):
    folder = packed(tmp_path / "x", GOOD)
    (layer,) = manifest_of(folder).layers

    with refuses(BadArtifact):
        unpacked(changed(folder, layers=(msgspec.structs.replace(layer, size=size),)))


INDEX = {"schemaVersion": 2, "manifests": []}
NESTED = {"mediaType": layout.INDEX_TYPE, "digest": f"sha256:{'0' * 64}", "size": 2}
ROW = {"mediaType": layout.MANIFEST_TYPE, "digest": f"sha256:{'0' * 64}", "size": 2}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}', UnsupportedArtifact),
        ("oci-layout", b"[]", BadArtifact),
        ("index.json", b"{" * 100_000, BadArtifact),
        ("index.json", b" " * (layout.MAX_JSON_BYTES + 1), BadArtifact),
        ("index.json", json.dumps(INDEX).encode(), UsageError),
        ("index.json", json.dumps(INDEX | {"schemaVersion": 1}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [ROW]}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [ROW | {"size": -1}]}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [ROW | {"size": 2**40}]}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [ROW | {"digest": "sha256:../../x"}]}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [ROW | {"mediaType": "x/y"}] * 1001}).encode(), BadArtifact),
        ("index.json", json.dumps(INDEX | {"manifests": [NESTED]}).encode(), UsageError),
    ],
    ids=["version", "no-object", "nested", "too-long", "empty", "schema", "gone", "negative", "huge", "digest", "many",
         "index-in-index"],
)  # fmt: skip
def test_an_index_that_cannot_be_is_refused(name, content, kind, own_home, tmp_path):
    folder = packed(tmp_path / "x", GOOD)
    (folder / name).write_bytes(content)

    with refuses(kind):
        unpacked(folder)


def test_a_model_of_dockers_is_read(own_home, tmp_path):
    folder = packed(tmp_path / "x", [(b"weights", "application/vnd.docker.ai.gguf.v3", "")])

    path = unpacked(folder)
    assert path is not None
    assert path.suffix == ".gguf"


def test_an_image_beside_it_is_passed_over(toy, own_home, tmp_path):
    invoke("model", toy, "-o", tmp_path / "x")
    with writing_layout(tmp_path / "x", "image", force=False) as writer:
        config = writer.put(b"{}", "application/vnd.oci.image.config.v1+json")
        writer.finish(ImageManifest(schema_version=2, config=config, layers=()), "image")

    path = unpacked(tmp_path / "x")
    assert path is not None
    assert identify(str(path)).format == "gguf"


def test_equal_records_are_equal_bytes():
    annotations = [{"a": "1", "b": "2"}, {"b": "2", "a": "1"}]
    digest = f"sha256:{'0' * 64}"

    assert (
        len({record_bytes(Descriptor(media_type="x", digest=digest, size=1, annotations=a)) for a in annotations}) == 1
    )


@pytest.mark.parametrize("tag", ["", ":latest"])
def test_a_model_in_a_layout_is_planned_for_as_the_file_is(toy: Path, tmp_path: Path, tag: str) -> None:
    invoke("model", toy, "-o", tmp_path / "x")

    plan = launch.model_plan(f"{tmp_path / 'x'}{tag}", SelectionRequest())

    assert Path(plan.artifact.path).read_bytes() == toy.read_bytes()
