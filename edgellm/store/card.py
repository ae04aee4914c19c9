"""A catalog row for a model that no catalog lists: made of its header, which is read before anything is fetched.

    card_of("hf://owner/repo:Q4_K_M")      one file, or one split set
    card_of("hf://owner/repo")             every quantization of the repository, to choose from
    card_of("ollama:llama3.2:1b"), card_of("https://..."), card_of("file:/..."), card_of("/path/model.gguf")

What lies on this disk already (stored, in the hub's cache, in Ollama's store) is described from there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgellm.contract.source import Lister, RemoteFile, Resolver, scheme_of
from edgellm.errors import IntegrityError, SourceError, UnsupportedArtifact, loading
from edgellm.files import expanded, safe_name
from edgellm.formats.gguf import summary as gguf_summary
from edgellm.formats.gguf.ggml_types import FILE_TYPES, TYPES
from edgellm.formats.gguf.summary import Summary
from edgellm.store import remote
from edgellm.store.address import redacted
from edgellm.store.library import Library
from edgellm.store.names import stem_of
from edgellm.store.sources import asking
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import source_for
from edgellm.types.model import ModelCard, ModelFile

HEADER = "header"  # ModelFile.trust of what was read from the file itself
_OTHER = "the file was replaced at its source since the catalog was made: name it by its URI to take it as it is"
_QUANT_NAMES = sorted({*FILE_TYPES.values(), *(kind.name for kind in TYPES.values())}, key=len, reverse=True)
_QUANT = re.compile(rf"(?:^|[-._/])({'|'.join(map(re.escape, _QUANT_NAMES))})(?=[-./]|$)", re.IGNORECASE)


def card_of(uri: str) -> ModelCard:
    """The row of the model that `uri` (or a path) names. Fetches headers only.

    Raises:
        BadArtifact, UnsupportedArtifact: not a sound GGUF file, or not a language model.
        UnknownModel: it does not exist.
        SourceError and its kinds; SourceError too where the source describes nothing before it is fetched (pypi).
    """
    scheme = scheme_of(uri)
    stored = next((s for s in Library().installed() if s.source == uri and not s.problem), None) if scheme else None
    if stored is not None and stored.format == "gguf":
        summary = gguf_summary.summary_of(stored.artifact().path)
        return _card(stored.model_id, summary, [_file(uri, summary, stored.sha256)])
    if scheme in ("", "file"):
        path = LocalFile.path_of(uri) if scheme else expanded(uri)
        return local_card(path)
    source = source_for(uri)
    if isinstance(source, Lister) and source.names_several(uri):
        return _repository(uri, asking.variants(source, uri))
    if not isinstance(source, Resolver):
        raise SourceError(
            f"{scheme}: describes no file before it is fetched", hint=f"fetch it first: {loading('MODEL')}"
        )
    files = asking.resolve(source, uri)
    summary, files = _summary(files)
    return _card(_name(uri, files), summary, [_file(_source(uri, files), summary, _sha256(files))])


def local_card(path: Path, *, model_id: str = "", sha256: str = "") -> ModelCard:
    """The row of a model file on this disk.

    Raises:
        BadArtifact, UnsupportedArtifact.
    """
    summary = gguf_summary.summary_of(path)
    return _card(model_id or _plain(path.name), summary, [_file(f"file:{path.absolute()}", summary, sha256)])


def undescribed(uri: str) -> ModelCard:
    """A row for a file that its source cannot describe: named after the source, everything else unknown."""
    name = safe_name(re.sub(r"^\w+:(//)?", "", uri).partition("#")[0].rpartition("/")[2])
    return ModelCard(_plain(name).lower() or "unnamed", "", "chat", "unknown", 0, 1, 1, None)


def verified(card: ModelCard, file: ModelFile) -> ModelCard:
    """The row with what the file's own header says of its sizes and shape, read from the source now.

    The same row where the source describes nothing before it is fetched, or the header was read before.

    Raises:
        As `card_of`; IntegrityError: the source has another file than the row promises.
    """
    source = source_for(file.source)
    if file.trust == HEADER or not isinstance(source, Resolver) or file.format != "gguf":
        return card
    summary, files = _summary(asking.resolve(source, file.source))
    stated = _sha256(files)
    if file.sha256 and stated and stated != file.sha256.lower():
        where = redacted(file.source)
        raise IntegrityError(f"{where} has sha256 {stated} at its source, {file.sha256} was promised", hint=_OTHER)
    if file.bytes is not None and file.bytes != summary.file_bytes:
        where = redacted(file.source)
        raise IntegrityError(f"{where} has {summary.file_bytes} bytes, {file.bytes} were promised", hint=_OTHER)
    read = replace(file, bytes=summary.file_bytes, tensor_bytes=summary.tensor_bytes, trust=HEADER)
    read = replace(read, layers=summary.layers)
    read = replace(read, sha256=file.sha256 or stated or None)
    return replace(card, shape=summary.shape, files=tuple(read if f == file else f for f in card.files))


def quant_in(name: str) -> str:
    """The quantization that a file's name ends with; "" where none is known."""
    names = _QUANT.findall(name)
    return names[-1].upper() if names else ""


def _summary(files: Sequence[RemoteFile]) -> tuple[Summary, list[RemoteFile]]:
    if all(file.path is not None for file in files):
        return gguf_summary.summary_of(str(files[0].path)), list(files)
    return remote.summary_of(files)


def _repository(uri: str, variants: Sequence[Sequence[RemoteFile]]) -> ModelCard:
    """One header is read, of the smallest file; the others differ in the types of their tensors only."""
    by_size = sorted(variants, key=lambda files: sum(file.bytes or 0 for file in files))
    if not by_size:
        raise SourceError(f"{uri} has no GGUF model", hint="name a repository whose files end in .gguf")
    summary, files = _summary(by_size[0])
    beside = summary.file_bytes - summary.tensor_bytes
    by_quant = {summary.quant: _file(_source(_uri_of(uri, files), files), summary, _sha256(files))}
    for others in by_size[1:]:
        quant, size = quant_in(stem_of(others[0].name)), sum(file.bytes or 0 for file in others)
        if quant and quant not in by_quant and size > beside:
            source, sha256 = _source(_uri_of(uri, others), others), _sha256(others) or None
            by_quant[quant] = ModelFile(source, quant, "gguf", size, sha256, size - beside, "listing")
    return _card(_name(uri, files), summary, list(by_quant.values()))


def _uri_of(uri: str, files: Sequence[RemoteFile]) -> str:
    return f"{uri.rstrip('/')}/{files[0].name}"


def _card(name: str, summary: Summary, files: Sequence[ModelFile]) -> ModelCard:
    if not summary.is_model or summary.shape is None:
        what = f"of type {summary.role!r}" if summary.role != "model" else "a vocabulary without tensors"
        raise UnsupportedArtifact(f"{name} is {what}, no language model", hint="name the model's own file")
    if summary.big_endian != (sys.byteorder == "big"):
        raise UnsupportedArtifact(
            f"{name} has its bytes in the other order than this machine", hint="name a file for this byte order"
        )
    shape = summary.shape
    idle = shape.n_layer * 3 * shape.n_embd * shape.n_ff_expert * max(0, shape.n_expert - shape.n_expert_used)
    return ModelCard(
        id=safe_name(name).lower(),
        family=summary.architecture,
        kind="embedding" if "bert" in summary.architecture else "chat" if summary.has_template else "base",
        license=summary.license or "unknown",
        ctx_train=summary.ctx_train,
        params=summary.params,
        params_active=max(1, summary.params - idle),
        shape=shape,
        files=tuple(files),
        source="the file's header",
        trust=HEADER,
    )


def _file(source: str, summary: Summary, sha256: str) -> ModelFile:
    return ModelFile(
        source,
        summary.quant,
        bytes=summary.file_bytes,
        sha256=sha256 or None,
        tensor_bytes=summary.tensor_bytes,
        trust=HEADER,
        layers=summary.layers,
    )


def _source(uri: str, files: Sequence[RemoteFile]) -> str:
    """What is here already is used from where it lies."""
    return uri if any(file.path is None for file in files) else f"file:{files[0].path}"


def _sha256(files: Sequence[RemoteFile]) -> str:
    return files[0].sha256 if len(files) == 1 else ""


def _name(uri: str, files: Sequence[RemoteFile]) -> str:
    """What a person would call it: the repository's name, or the file's, without quantization."""
    scheme = scheme_of(uri)
    if scheme == "hf":
        repo = uri.removeprefix("hf://").split("/")[1].partition("@")[0].partition(":")[0]
        return re.sub(r"[-_.]gguf$", "", repo, flags=re.IGNORECASE)
    if scheme == "ollama":
        return _plain(files[0].name).removesuffix("-latest")
    return _plain(files[0].name)


def _plain(name: str) -> str:
    stem = stem_of(name)
    quant = quant_in(stem)
    return re.sub(rf"[-._]{re.escape(quant)}$", "", stem, flags=re.IGNORECASE) if quant else stem
