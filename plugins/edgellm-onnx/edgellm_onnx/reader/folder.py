"""A folder with an ONNX model: which graph is meant, its small files, and the data files beside it. Reads headers only.

genai_config.json names the graph       onnxruntime-genai
decoder_model_merged.onnx               Optimum: one graph with a branch for the first step
decoder_model.onnx                      Optimum: the first step, and every later one in decoder_with_past_model.onnx
one graph, in the folder or in onnx/    everything else; with several, one must be named
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgellm.errors import BadArtifact, UnknownModel
from edgellm.formats.json_file import read_object
from edgellm.formats.slack import check_slack, covered
from edgellm_onnx.reader.graph import OnnxGraph
from edgellm_onnx.reader.tensor import Tensor

MERGED, FIRST, LATER = "decoder_model_merged.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
CONFIGS = ("config.json", "genai_config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class OnnxFolder:
    """`graph` runs every step; where `first` is there, it runs the steps that start a slot."""

    path: Path  # where the configuration and the tokenizer are
    graph: Path
    first: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)  # config.json; empty where there is none
    genai: dict[str, Any] = field(default_factory=dict)  # genai_config.json

    @property
    def graphs(self) -> tuple[Path, ...]:
        return (self.graph,) if self.first is None else (self.first, self.graph)

    def genai_section(self, *names: str) -> dict[str, Any]:
        """A part of genai_config.json; empty where there is none."""
        section: Any = self.genai
        for name in names:
            section = section.get(name) if isinstance(section, dict) else None
        return section if isinstance(section, dict) else {}


def open_folder(path: str | Path) -> OnnxFolder:
    """Of a folder, or of one of its .onnx files.

    Raises:
        UnknownModel: no graph is there, or several and none is named.
        BadArtifact: a configuration is malformed, or names a graph that is not there.
    """
    where = Path(path)
    if where.is_dir():
        return _folder(where)
    if not where.is_file():
        raise BadArtifact(f"{where} is not there", hint="fetch the whole folder")
    home = where.parent
    if home.name == "onnx" and not any((home / name).is_file() for name in CONFIGS):
        home = home.parent
    config, genai = (read_object(home / name) for name in CONFIGS[:2])
    first = where.parent / FIRST if where.name == LATER else None
    if where.name == FIRST and (where.parent / LATER).is_file():
        where, first = where.parent / LATER, where
    return OnnxFolder(home, where, first if first and first.is_file() else None, config, genai)


def _folder(where: Path) -> OnnxFolder:
    config, genai = (read_object(where / name) for name in CONFIGS[:2])
    named = OnnxFolder(where, where, None, config, genai).genai_section("model", "decoder").get("filename")
    if named is not None:
        graph = where / _contained(where / "genai_config.json", named)
        if not graph.is_file():
            raise BadArtifact(
                f"{where}/genai_config.json names {named}, which is missing", hint="fetch the whole folder"
            )
        return OnnxFolder(where, graph, None, config, genai)
    files = {file.name: file for folder in (where / "onnx", where) for file in sorted(folder.glob("*.onnx"))}
    if MERGED in files:
        return OnnxFolder(where, files[MERGED], None, config, genai)
    if FIRST in files and LATER in files:
        return OnnxFolder(where, files[LATER], files[FIRST], config, genai)
    if not files:
        raise UnknownModel(f"{where} holds no ONNX graph", hint="give the folder with the .onnx file in it")
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(where)) for file in list(files.values())[:8])
        raise UnknownModel(f"{where} holds {len(files)} ONNX graphs", hint=f"name one of them: {names}")
    return OnnxFolder(where, next(iter(files.values())), None, config, genai)


def data_files(*graphs: OnnxGraph) -> dict[Path, int]:
    """The files that hold the external tensors of one folder's graphs, and how many bytes of them are tensors.

    Raises:
        BadArtifact: a path that leaves the graphs' folder, or a file that is missing, shorter than its tensors need, or
            longer than they explain.
    """
    tensors: dict[Path, list[tuple[Tensor, OnnxGraph]]] = {}
    for graph in graphs:
        folder = Path(graph.where).parent
        for tensor in graph.external:
            tensors.setdefault(folder / _contained(graph.where, tensor.location), []).append((tensor, graph))
    return {place: _used(place, held) for place, held in tensors.items()}


def _used(place: Path, held: list[tuple[Tensor, OnnxGraph]]) -> int:
    """Bytes of tensors in a data file. Raises: BadArtifact."""
    last, graph = max(held, key=lambda one: _end(one[0]))
    check_place(place, Path(graph.where).parent, graph.where)
    n_bytes = place.stat().st_size
    if n_bytes < _end(last):
        raise BadArtifact(
            f"{place} has {n_bytes} bytes; tensor {last.name!r} of {graph.where} ends at byte {_end(last)}",
            hint="the file is cut; fetch it again",
        )
    spans = {(tensor.offset, _end(tensor)) for tensor, _ in held}
    used = covered(spans)
    # onnx appends to a data file that is there, so a model that was saved again over its own may be half unused.
    check_slack(str(place), n_bytes, used, len(spans), unused_bytes=used)
    return used


def _end(tensor: Tensor) -> int:
    return tensor.offset + tensor.n_bytes


def _contained(where: object, location: object) -> str:
    """`location` where it names something below the folder.

    Raises:
        BadArtifact: an absolute path, one that climbs, or no text.
    """
    text = location if isinstance(location, str) else ""
    windows = PureWindowsPath(text)
    climbs = ".." in PurePosixPath(text).parts or ".." in windows.parts
    if not text or "\0" in text or climbs or text.startswith("/") or windows.drive or windows.root:
        raise BadArtifact(
            f"{where} asks for the file {str(location)[:80]!r}, which is not below its folder",
            hint="do not open this model: it reaches for other files of this machine",
        )
    return text


def check_place(place: Path, folder: Path, where: str) -> None:
    """A regular file, reached without leaving the folder; the hub's cache links into its own store of blobs."""
    real = Path(os.path.realpath(place))
    try:
        mode = real.stat().st_mode
    except OSError:
        raise BadArtifact(
            f"{where} needs {place}, which is missing", hint="it holds the weights; fetch the whole folder"
        ) from None
    if not stat.S_ISREG(mode):
        raise BadArtifact(f"{where} needs {place}, which is not a regular file", hint="fetch the whole folder")
    home = Path(os.path.realpath(folder))
    if not real.is_relative_to(home) and not real.is_relative_to(_blobs(home)):
        raise BadArtifact(
            f"{where} needs {place}, a link to {real}, outside its folder",
            hint="put the file itself there if it is the right one",
        )


def _blobs(folder: Path) -> Path:
    """Where the hub's cache keeps what `folder` links to (models--X/blobs of models--X/snapshots/...)."""
    for parent in folder.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent / "blobs"
    return folder
