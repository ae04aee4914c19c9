"""A machine without a Python: the bundle brings one, and one command makes a service of it, without a network.

make test-all    makes the wheels that it needs, and runs it where the machine has glibc

No package of an index is a Python for musl: EDGELLM_MUSL_PYTHON names one, as `--with-python` takes it, and
EDGELLM_WHEELS a folder with what it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from edgellm_bitnet.models import TINY_TERNARY
from support.bare_root import bare_root, enter, musl_root
from support.made_wheels import folder, made
from support.served_slot import SCRIPT

from edgellm.cli.main import cli

QUESTION = "What is the capital of France? Answer in one short sentence."
STORY = " lives in the bag, and a great big jungle of white caps"  # on glibc, as tests/arm64/ternary.py has it
# Installs, serves and asks: $1 is the bundle.
_INSTALL = """
if python3 -c '' 2>/dev/null; then exit 9; fi
tar -xOf "$1" install | sh -s -- "$1" --root /mnt/own/opt --unsigned --activate --skip start >&2
exec /mnt/own/opt/current/venv/bin/python -c "$2" /mnt/own/opt/current/run "$3" "$4"
"""
# Takes Python away from the root.
_TAKEN = """
mount -t tmpfs tmpfs /usr/lib/python3.13
mount --bind /dev/null /usr/bin/python3.13
"""


def packed(root: Path, target: Path) -> Path:
    """Debian's Python, which is one program with its library in it, from a root; as a tree that finds itself."""
    tree = target.parent / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(root / "usr/bin/python3.13", tree / "bin")
    (tree / "bin/python3").symlink_to("python3.13")
    shutil.copytree(root / "usr/lib/python3.13", tree / "lib/python3.13", symlinks=True, ignore=_links_out)
    with tarfile.open(target, "w:gz") as archive:
        archive.add(tree, "python")
    return target


def _links_out(folder: str, names: list[str]) -> list[str]:
    """What leads to other packages of Debian's, or was compiled for another place."""
    return [name for name in names if (Path(folder) / name).is_symlink() or name == "__pycache__"]


def create(bundle: Path, model: str, *machines: str | Path) -> None:
    given = ("--for", "intel-n100-16gb", "--model", model, "--wheels", folder(), *machines)
    result = CliRunner().invoke(cli, ["bundle", "create", *map(str, given), "--no-golden", "-o", str(bundle)])
    assert result.exception is None, result.output


@pytest.mark.model
@pytest.mark.slow(120)
@pytest.mark.timeout(1800)
def test_a_root_without_python_serves(smollm2: str, tmp_path: Path) -> None:
    made("llama_cpp_python", "manylinux_2_28_x86_64")
    if not any(folder().glob("numpy-*-cp313-*x86_64.whl")):
        pytest.skip(f'wheels: {folder()} has not what they need (make wheels ARGS="--python 3.13")')
    root = bare_root("trixie")
    work = tmp_path / "work"
    work.mkdir()
    create(work / "box.edgellm", smollm2, "--glibc", "2.41", "--with-python", packed(root, tmp_path / "python.tar.gz"))
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    asked = (SCRIPT, "/v1/chat/completions", json.dumps(body))
    command = ("sh", "-ec", _TAKEN + _INSTALL, "sh", "/mnt/own/box.edgellm", *asked)
    answer = json.loads(enter(root, work, folder(), smollm2, *command))

    assert answer["message"]["content"] == "The capital of France is Paris."


@pytest.mark.by_hand
@pytest.mark.slow(120)
@pytest.mark.timeout(1800)
def test_a_root_with_musl_serves(tmp_path: Path) -> None:
    made("edgellm_bitnet", "musllinux_1_2_x86_64")
    if not (python := os.environ.get("EDGELLM_MUSL_PYTHON")):
        pytest.skip("wheels: no Python for musl (EDGELLM_MUSL_PYTHON)")
    trained = TINY_TERNARY.files[0].source.removeprefix("file:")
    work = tmp_path / "work"
    work.mkdir()
    create(work / "box.edgellm", trained, "--musl", "1.2", "--with-python", python)
    body = {"prompt": "Once upon a time there was a king who", "temperature": 0, "max_tokens": 16}
    command = ("sh", "-ec", _INSTALL, "sh", "/mnt/own/box.edgellm", SCRIPT, "/v1/completions", json.dumps(body))
    answer = json.loads(enter(musl_root(), work, folder(), trained, *command))

    assert STORY.startswith(answer["text"])
    assert len(answer["text"]) > 20
