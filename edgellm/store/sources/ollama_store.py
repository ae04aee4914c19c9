"""Ollama's names and manifests, and its stores on this machine. Its registry is asked in `ollama`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.contract.source import RemoteFile
from edgellm.errors import EdgeLLMError, SourceError, UnsupportedArtifact
from edgellm.files import expanded, read_regular, safe_name

REGISTRY = "registry.ollama.ai"
MANIFEST_BYTES = 1024**2
_NAME = re.compile(
    r"ollama:(?://)?(?:(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::[0-9]{1,5})?|localhost(?::[0-9]{1,5})?)/)?"
    r"(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})/)?(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}))?"
)
_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"
_SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


@dataclass(frozen=True, slots=True)
class Name:
    host: str
    namespace: str
    model: str
    tag: str


def stores() -> list[Path]:
    """Ollama's stores on this machine that can be read."""
    named = os.environ.get("OLLAMA_MODELS")
    places = [expanded(named)] if named else [expanded("~/.ollama/models"), _SERVICE_STORE]
    return [place for place in places if os.access(place / "manifests", os.R_OK | os.X_OK)]


def parse_name(uri: str) -> Name:
    """
    Raises:
        SourceError: no name of a model.
    """
    match = _NAME.fullmatch(uri)
    if match is None or ".." in uri:
        raise SourceError(
            f"{uri!r} names no model of Ollama's registry", hint="write ollama:NAME:TAG, as ollama:llama3.2:1b"
        )
    return Name(match["host"] or REGISTRY, match["namespace"] or "library", match["model"], match["tag"] or "latest")


def local_manifest(name: Name) -> list[RemoteFile] | None:
    """The model's files in a store of this machine; None where it is not, or not whole."""
    for store in stores():
        place = store / "manifests" / name.host.replace(":", "%") / name.namespace / name.model / name.tag
        for path in (place, Path(str(place).replace("%", ":"))):
            files = _read_local(store, path, name)
            if files is not None:
                return files
    return None


def local_models() -> Iterator[tuple[str, list[RemoteFile]]]:
    """(name as Ollama shows it, files) of every model in this machine's stores that is whole."""
    for store in stores():
        for path in sorted((store / "manifests").glob("*/*/*/*")):
            host, namespace, model, tag = path.relative_to(store / "manifests").parts
            try:
                name = parse_name(f"ollama://{host}/{namespace}/{model}:{tag}")
            except SourceError:
                continue
            files = _read_local(store, path, name)
            if files:
                short = model if (host, namespace) == (REGISTRY, "library") else f"{namespace}/{model}"
                yield f"{short}:{tag}", files


def _read_local(store: Path, path: Path, name: Name) -> list[RemoteFile] | None:
    try:
        return files_of(name, decoded(read_regular(path, MANIFEST_BYTES), str(path)), store=store)
    except (OSError, EdgeLLMError):
        return None


def decoded(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SourceError(f"{where} is not a manifest", hint="try again later")
    return content


def files_of(name: Name, manifest: dict[str, Any], *, store: Path | None = None, base: str = "") -> list[RemoteFile]:
    """The model layers of a manifest, as blobs of `store`, or of the registry at the address `base`.

    Raises:
        UnsupportedArtifact: it is not one GGUF model. SourceError: the manifest is broken.
    """
    shown = f"{name.namespace}/{name.model}:{name.tag}"
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise SourceError(f"the manifest of {shown} lists no layers", hint="try again later")
    if any(layer.get("mediaType") == _ADAPTER for layer in layers):
        raise UnsupportedArtifact(f"{shown} is an adapter over another model", hint="name a model that stands alone")
    chosen = [layer for layer in layers if layer.get("mediaType") == _MODEL]
    if not 1 <= len(chosen) <= 64:
        raise UnsupportedArtifact(f"{shown} has {len(chosen)} GGUF files, one is needed", hint="name another tag")
    stem = safe_name(f"{name.model}-{name.tag}")
    files = []
    for no, layer in enumerate(chosen, 1):
        digest, size = layer.get("digest"), layer.get("size")
        match = re.fullmatch(r"sha256:([0-9a-f]{64})", digest) if isinstance(digest, str) else None
        if match is None or not isinstance(size, int) or not 0 < size < 2**50:
            raise SourceError(f"the manifest of {shown} has a layer without digest or size", hint="try again later")
        part = f"-{no:05d}-of-{len(chosen):05d}" if len(chosen) > 1 else ""
        path = None if store is None else store / "blobs" / f"sha256-{match[1]}"
        if path is not None and path.stat().st_size != size:
            raise SourceError(f"{path} is not whole")
        files.append(RemoteFile(f"{stem}{part}.gguf", f"{base}/blobs/{digest}", size, match[1], path=path))
    return files
