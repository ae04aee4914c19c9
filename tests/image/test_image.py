"""An image for containers: four layers of which each follows from what went into it, and papers about every file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support import images
from support.refusals import check_refusal, refuses
from support.tiny_models import MODELS

from edgellm.bundle.writer import Content
from edgellm.cli.main import cli
from edgellm.errors import DiskFull, SourceError, UnknownProfile, UsageError
from edgellm.formats.oci.layout import Layout
from edgellm.image import environment, tar_layer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")

BASE, MODEL, OWN, PAPERS = range(4)
N100 = "intel-n100-16gb"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return replace(MODELS["llama-grouped"], n_layer=1).write(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def inputs(tmp_path: Path, toy: Path, own_home: Path) -> list[str]:
    root, wheels = images.root(tmp_path / "root"), images.wheels(tmp_path / "wheels")
    return ["--for", N100, "--root", str(root), "--wheels", str(wheels), "--model", str(toy)]


def create(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["image", "create", *map(str, arguments)])
    assert (result.exception is None) == (code == 0), result.output
    return result


@pytest.fixture
def image(inputs: list[str], tmp_path: Path) -> Path:
    create(*inputs, "-o", tmp_path / "x")
    return tmp_path / "x"


def test_the_config_says_who_runs_what(image):
    config = images.config_of(image)
    runs = config["config"]

    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert images.row_of(image).platform is not None
    assert runs["User"] == "10001:10001"
    assert runs["Entrypoint"] == ["/opt/edgellm/bin/python3", "-P", "-m", "edgellm", "serve"]
    assert runs["Cmd"][-1] == "--offline"
    assert "EDGELLM_HOME=/opt/edgellm/home" in runs["Env"]
    assert runs["Healthcheck"]["Test"][:2] == ["CMD", "/opt/edgellm/bin/python3"]
    assert config["rootfs"]["diff_ids"] == [layer.digest for layer in images.manifest_of(image).layers]
    assert len(config["history"]) == len(config["rootfs"]["diff_ids"])


def test_every_blob_has_the_digest_that_it_is_named_by(image):
    blobs = list((image / "blobs" / "sha256").iterdir())

    assert len(blobs) == len(images.manifest_of(image).layers) + 2
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in blobs)


def test_files_are_where_they_are_looked_for(image, toy, tmp_path):
    root = images.unpacked(image, tmp_path / "unpacked")
    home = root / "opt/edgellm/home"

    assert os.readlink(root / "opt/edgellm/bin/python3") == "/usr/bin/python3"
    assert (root / "opt/edgellm/bin/edgellm").read_text().startswith("#!/opt/edgellm/bin/python3\n")
    assert (root / "opt/edgellm/lib/python3.13/site-packages/edgellm_gguf/__init__.py").is_file()
    (model,) = home.glob("data/models/*/*/*.gguf")
    assert model.read_bytes() == toy.read_bytes()
    (file,) = json.loads((model.parent / "stored.json").read_text())["files"]
    assert model.stat().st_mtime_ns == file["mtime_ns"]  # so that nothing hashes it in a container
    assert (root / "etc/hostname").read_text() == "box\n"
    assert list((root / "proc").iterdir()) == []


def test_only_measurements_belong_to_who_runs_it(image):
    owned = {name for no in (MODEL, OWN, PAPERS) for name, m in images.members(image, no).items() if m.uid}

    assert owned == {"opt/edgellm/home/cache", "opt/edgellm/home/data/history"}
    assert {f"/{name}" for name in owned} == images.config_of(image)["config"]["Volumes"].keys()
    assert all(not m.mode & 0o022 or m.issym() for no in (MODEL, OWN) for m in images.members(image, no).values())


def test_two_are_the_same(inputs, tmp_path):
    made = [json.loads(create(*inputs, "-o", tmp_path / name, "--json").stdout) for name in ("x", "y")]

    assert made[0]["digest"] == made[1]["digest"]
    assert made[0]["layers"] == made[1]["layers"]
    assert (tmp_path / "x/index.json").read_bytes() == (tmp_path / "y/index.json").read_bytes()


def test_a_new_build_of_ours_ships_no_model(inputs, tmp_path):
    create(*inputs, "-o", tmp_path / "x")
    before = images.manifest_of(tmp_path / "x").layers
    images.wheel(tmp_path / "wheels", "edgellm", "1.1")
    create(*inputs, "-o", tmp_path / "x", "--force")
    after = images.manifest_of(tmp_path / "x").layers

    assert [a.digest == b.digest for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_licences_that_are_not_named_are_refused(inputs, tmp_path):
    refused = create(*inputs, "--licences", "MIT, Apache-2.0", "-o", tmp_path / "x", code=1)

    check_refusal(refused.exception, UsageError, param="licences")
    assert not (tmp_path / "x").exists()


def test_times_are_no_later_than_the_date_of_the_sources(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    create(*inputs, "-o", tmp_path / "x")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    refused = create(*inputs, "-o", tmp_path / "y", code=2)

    assert {member.mtime for member in images.members(tmp_path / "x", BASE).values()} == {1000000000}
    assert images.config_of(tmp_path / "x")["created"] == "2001-09-09T01:46:40Z"
    check_refusal(refused.exception, UsageError, param="SOURCE_DATE_EPOCH")


def sbom_of(image: Path, folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (images.unpacked(image, folder) / "opt/edgellm/share/sbom.cdx.json").read_text()
    )
    return document


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for component in document["components"] for row in (component.get("components") or [component])]


def test_every_file_has_a_component_a_licence_and_its_hash(image, tmp_path):
    document = sbom_of(image, tmp_path / "unpacked")
    rows = {row["properties"][0]["value"]: row for row in rows_of(document)}
    files = {
        path.relative_to(tmp_path / "unpacked").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "unpacked").rglob("*")
        if path.is_file() and not any(p.is_symlink() for p in (path, *path.parents))
    }

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert files.pop("opt/edgellm/share/sbom.cdx.json")
    assert {path: row["hashes"][0]["content"] for path, row in rows.items()} == files
    assert all(row["licenses"] for row in rows.values())


def test_files_of_debian_are_of_its_packages(image, tmp_path):
    components = {c["name"]: c for c in sbom_of(image, tmp_path / "unpacked")["components"]}

    python, libc = components["python3-tiny"], components["libc6"]
    assert python["purl"] == "pkg:deb/debian/python3-tiny@3.13.5-2?arch=amd64"
    assert {row["name"] for row in python["components"]} == {
        "usr/bin/python3.13", "usr/lib/python3/tiny.py", "usr/lib/python3/__pycache__/tiny.cpython-313.pyc",
        "var/lib/dpkg/info/python3-tiny.list",
    }  # fmt: skip
    assert python["licenses"][0]["license"]["name"] == "PSF-2"
    assert libc["licenses"][0]["license"]["name"] == "see /usr/share/doc/libc6/copyright"
    assert "gone" not in components


def test_a_root_of_another_kind_needs_a_licence(toy, own_home, tmp_path):
    root, wheels = images.root(tmp_path / "root", debian=False), images.wheels(tmp_path / "wheels")
    arguments = ["--for", N100, "--root", root, "--wheels", wheels, "--model", toy, "-o", tmp_path / "x"]

    check_refusal(create(*arguments, code=2).exception, UsageError, param="root_licence")
    assert not (tmp_path / "x").exists()
    create(*arguments, "--root-licence", "MIT")
    assert all(row["licenses"] for row in rows_of(sbom_of(tmp_path / "x", tmp_path / "unpacked")))


TWICE = {"edgellm/__init__.py": b""}  # of another package
WHITEOUT = {"edgellm_gguf/.wh..wh..opq": b""}


@pytest.mark.parametrize(
    "paths",
    [
        ("opt/../etc/passwd",),
        ("/etc/passwd",),
        ("opt/.wh.edgellm/x",),
        ("opt/edgellm/pyvenv.cfg", "opt/edgellm/pyvenv.cfg"),
        ("opt/edgellm/bin/python3",),
        ("opt/edgellm/bin/python3/x",),
        ("a/b", "a"),
        ("a", "a/b"),
        ("a", "a"),
    ],
)
def test_what_would_lie_elsewhere_in_a_layer_is_refused(paths):
    out = io.BytesIO()
    with refuses(UsageError, param="wheels"):
        tar_layer.write(out, [Content.of(path, b"") for path in paths], environment.interpreter())
    assert out.getvalue() == b""


def test_a_folder_may_get_an_owner_after_what_is_in_it():
    out = io.BytesIO()
    tar_layer.write(out, [Content.of("a/b", b"")], [tar_layer.OwnedFolder("a", 7), tar_layer.OwnedFolder("c", 7)])

    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert [(member.name, member.uid) for member in archive] == [("a", 7), ("a/b", 0), ("c", 7)]


@pytest.mark.parametrize(
    ("spoil", "param"),
    [
        (lambda root: (root / "usr/bin/python3").unlink(), "root"),
        (lambda root: images.for_arm(root), "root"),
        (lambda root: (root / "usr/bin/python3.13").write_bytes(bytes(20)), "root"),
        (lambda root: (root / "usr/lib/x86_64-linux-gnu/libc.so.6").write_bytes(b"musl"), "root"),
        (lambda root: (root / "etc/.wh.passwd").write_bytes(b""), "root"),
        (lambda root: shutil.rmtree(root), "root"),
        (lambda root: shutil.rmtree(root.parent / "wheels"), "wheels"),
        (lambda root: (root.parent / "wheels/edgellm-1.0-py3-none-any.whl").unlink(), "wheels"),
        (lambda root: images.wheel(root.parent / "wheels", "edgellm-gguf", files=TWICE), "wheels"),
        (lambda root: images.wheel(root.parent / "wheels", "edgellm-gguf", files=WHITEOUT), "wheels"),
    ],
    ids=["no-python", "another-processor", "no-elf", "no-glibc", "whiteout", "no-root", "no-folder", "no-edgellm",
         "one-file-twice", "whiteout-in-a-wheel"],
)  # fmt: skip
def test_what_makes_no_image_is_refused_and_leaves_nothing(spoil, param, inputs, tmp_path):
    spoil(tmp_path / "root")
    result = create(*inputs, "-o", tmp_path / "x", code=2)

    check_refusal(result.exception, UsageError, param=param)
    assert not (tmp_path / "x").exists()


def test_room_is_asked_for_what_wheels_unpack_to(inputs, tmp_path, monkeypatch):
    packed = images.wheel(tmp_path / "wheels", "edgellm", files={"edgellm/x.bin": bytes(10**8)})
    asked = []
    monkeypatch.setattr("edgellm.app.image.create.require_room", lambda _, n_bytes, *__, **___: asked.append(n_bytes))
    create(*inputs, "-o", tmp_path / "x")

    assert packed.stat().st_size < 10**6
    assert asked[0] > 2 * 10**8  # laid out, and in a layer


@pytest.mark.parametrize(
    ("arguments", "param"),
    [(["--debian", "trixie"], "root"), (["--for", "apple-m1-8gb"], "for"), (["--tag", "a/b"], "tag")],
    ids=["two-roots", "macos", "tag"],
)
def test_contradictions_are_refused(arguments, param, inputs, tmp_path):
    result = create(*inputs, *arguments, "-o", tmp_path / "x", code=2)

    check_refusal(result.exception, UsageError, param=param)
    assert not (tmp_path / "x").exists()


def test_a_profile_that_is_none_is_named_before_a_root_is_asked_for(tmp_path):
    assert isinstance(create("--for", "nosuch", "-o", tmp_path / "x", code=2).exception, UnknownProfile)


def test_debian_is_made_by_mmdebstrap_only(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [*inputs[:2], *inputs[4:], "--debian", "trixie", "-o", tmp_path / "x"]

    check_refusal(create(*arguments, code=2).exception, UsageError, param="debian")
    assert not (tmp_path / "x").exists()


def test_what_mmdebstrap_says_is_told(inputs, tmp_path, monkeypatch):
    (tmp_path / "mmdebstrap").write_text("#!/bin/sh\nyes no such suite | head -n 100000 >&2\nexit 25\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    arguments = [*inputs[:2], *inputs[4:], "--debian", "gone", "-o", tmp_path / "x"]

    check_refusal(create(*arguments, code=5).exception, SourceError)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_leaves_what_was_there(inputs, tmp_path, monkeypatch):
    create(*inputs, "-o", tmp_path / "x")
    before = {path: path.read_bytes() for path in (tmp_path / "x").rglob("*") if path.is_file()}

    def full(*_: Any, **more: Any) -> None:
        raise DiskFull("it is full")

    monkeypatch.setattr("edgellm.app.image.create.require_room", full)
    create(*inputs, "-o", tmp_path / "x", "--tag", "second", code=5)

    assert {path: path.read_bytes() for path in (tmp_path / "x").rglob("*") if path.is_file()} == before


def test_umoci_unpacks_it(image, tmp_path):
    if shutil.which("umoci") is None:
        pytest.skip("wheels: no umoci: apt-get install umoci")
    made = tmp_path / "made"
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{image}:latest", made], check=True, capture_output=True
    )

    runtime = json.loads((made / "config.json").read_text())
    assert runtime["process"]["args"][:5] == images.config_of(image)["config"]["Entrypoint"]
    ours = images.unpacked(image, tmp_path / "unpacked")
    for path in ours.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert (made / "rootfs" / path.relative_to(ours)).read_bytes() == path.read_bytes()
    assert Layout(image).index().manifests
