"""Models of Ollama's registry, by its HTTP API: a manifest names the blobs, a blob's name is its sha256.

    ollama:NAME[:TAG]                              of registry.ollama.ai, tag "latest" where none is given
    ollama://[HOST[:PORT]/][NAMESPACE/]NAME[:TAG]  namespace "library" where none is given

What Ollama itself has fetched already (OLLAMA_MODELS, else ~/.ollama/models and the folder of its Linux service) is
used where it lies. Its template and parameters are not used: the GGUF file has its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import EdgeLLMError, SourceError, UnsupportedArtifact
from edgellm.store import http
from edgellm.store.download import download_all
from edgellm.store.names import safe_name
from edgellm.store.sources.ollama_stores import stores

REGISTRY = "registry.ollama.ai"
_NAME = re.compile(
    r"ollama:(?://)?(?:(?P<host>[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d{1,5})?|localhost(?::\d{1,5})?)/)?"
    r"(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})/)?(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}))?"
)
_MANIFEST_BYTES = 1024**2
_MANIFEST_TYPES = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"


@dataclass(frozen=True, slots=True)
class Name:
    host: str
    namespace: str
    model: str
    tag: str

    @property
    def base(self) -> str:
        """http to this machine (a registry of one's own), https to any other."""
        scheme = "http" if http.is_loopback(self.host.partition(":")[0]) else "https"
        return f"{scheme}://{self.host}/v2/{self.namespace}/{self.model}"


class Ollama:
    """Scheme `ollama`."""

    scheme = "ollama"
    resumes = True

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """Asks for the manifest; without a URI nobody is asked."""
        if not uri:
            return "EDGELLM_OFFLINE is set" if settings.offline() else ""
        try:
            name = parse(uri)
            if local_manifest(name) is None:
                if settings.offline():
                    return "EDGELLM_OFFLINE is set"
                _fetch_manifest(name, timeout_s=timeout_s, tries=1)
        except EdgeLLMError as error:
            return error.message
        return ""

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return [(folder, n_bytes)]

    def resolve(self, uri: str) -> list[RemoteFile]:
        """The model's files: on this disk where Ollama has them, else at the registry.

        Raises:
            UnknownModel, SourceError and its kinds; UnsupportedArtifact: it is not one GGUF model.
        """
        name = parse(uri)
        here = local_manifest(name)
        if here is not None:
            return here
        return _files(name, _fetch_manifest(name), None)

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        """Into `folder`; what lies in Ollama's store stays there."""
        what = uri.removeprefix("ollama:").lstrip("/")
        return download_all(self.resolve(uri), folder, what, progress, n_bytes=n_bytes)

    def discard(self, paths: Sequence[Path]) -> None:
        """Ollama's files are its own."""


def parse(uri: str) -> Name:
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
                name = parse(f"ollama://{host}/{namespace}/{model}:{tag}")
            except SourceError:
                continue
            files = _read_local(store, path, name)
            if files:
                short = model if (host, namespace) == (REGISTRY, "library") else f"{namespace}/{model}"
                yield f"{short}:{tag}", files


def _read_local(store: Path, path: Path, name: Name) -> list[RemoteFile] | None:
    try:
        with open(path, "rb") as file:
            return _files(name, _decoded(file.read(_MANIFEST_BYTES), str(path)), store)
    except (OSError, EdgeLLMError):
        return None


def _fetch_manifest(name: Name, *, timeout_s: float | None = None, tries: int = http.TRIES) -> dict[str, Any]:
    url = f"{name.base}/manifests/{name.tag}"
    hint = f"see which tags {name.model} has at ollama.com/library; private models are not fetched"
    with http.get(url, {"Accept": _MANIFEST_TYPES}, hint=hint, timeout_s=timeout_s, tries=tries) as answer:
        data = b""
        while len(data) <= _MANIFEST_BYTES and (piece := answer.read(64 * 1024)):
            data += piece
    return _decoded(data, http.shown(url))


def _decoded(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SourceError(f"{where} is no manifest", hint="try again later")
    return content


def _files(name: Name, manifest: dict[str, Any], store: Path | None) -> list[RemoteFile]:
    """The model layers of a manifest, as blobs of the registry or of `store`."""
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
        files.append(RemoteFile(f"{stem}{part}.gguf", f"{name.base}/blobs/{digest}", size, match[1], path=path))
    return files
