"""Models of Ollama's registry, by its HTTP API: a manifest names the blobs, a blob's name is its sha256.

    ollama:NAME[:TAG]                              of registry.ollama.ai, tag "latest" where none is given
    ollama://[HOST[:PORT]/][NAMESPACE/]NAME[:TAG]  namespace "library" where none is given

What Ollama itself has fetched already (OLLAMA_MODELS, else ~/.ollama/models and the folder of its Linux service) is
used where it lies. Its template and parameters are not used: the GGUF file has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import EdgeLLMError
from edgellm.store import http
from edgellm.store.address import is_loopback, redacted
from edgellm.store.download import download_all
from edgellm.store.sources.ollama_store import MANIFEST_BYTES, Name, decoded, files_of, local_manifest, parse_name

_MANIFEST_TYPES = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Ollama:
    """Scheme `ollama`."""

    scheme = "ollama"
    resumes = True

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """Requests the manifest; without a URI there is no registry to ask."""
        if not uri:
            return "EDGELLM_OFFLINE is set" if settings.current().offline else ""
        try:
            name = parse_name(uri)
            if local_manifest(name) is None:
                if settings.current().offline:
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
        name = parse_name(uri)
        here = local_manifest(name)
        if here is not None:
            return here
        return files_of(name, _fetch_manifest(name), base=_base(name))

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        """Into `folder`; what lies in Ollama's store stays there."""
        what = uri.removeprefix("ollama:").lstrip("/")
        return download_all(self.resolve(uri), folder, what, progress, n_bytes=n_bytes)

    def discard(self, paths: Sequence[Path]) -> None:
        """Ollama's files are its own."""


def _fetch_manifest(name: Name, *, timeout_s: float | None = None, tries: int = http.TRIES) -> dict[str, Any]:
    url = f"{_base(name)}/manifests/{name.tag}"
    hint = f"see which tags {name.model} has at ollama.com/library; private models are not fetched"
    with http.get(url, {"Accept": _MANIFEST_TYPES}, hint=hint, timeout_s=timeout_s, tries=tries) as answer:
        data = b""
        while len(data) <= MANIFEST_BYTES and (piece := answer.read(64 * 1024)):
            data += piece
    return decoded(data, redacted(url))


def _base(name: Name) -> str:
    """http to this machine (a registry of one's own), https to any other."""
    scheme = "http" if is_loopback(name.host.partition(":")[0]) else "https"
    return f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}"
