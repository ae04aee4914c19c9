"""What a path on this disk is: a GGUF file, one part of a split set, a model folder, or something else by its name.

Reads headers only. Whether an installed backend can open the file is for the backend to say.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellm.contract.answers import answer
from edgellm.contract.backend import Inspector
from edgellm.contract.manager import plugins
from edgellm.errors import ArtifactError, BadArtifact, UnknownModel, UnsupportedArtifact
from edgellm.files import expanded
from edgellm.formats.encoder_length import encoder_length
from edgellm.formats.gguf import reader
from edgellm.formats.hf_config import config_of, shape_of
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.formats.sniff import sniff
from edgellm.types.model import Artifact, ModelFacts, Shape

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EBADF)


def identify(path: str, *, model_id: str | None = None) -> Artifact:
    """The artifact at `path`. Without `model_id` it is named after the file.

    Raises:
        UnknownModel: nothing is there, or a folder without a model in it.
        BadArtifact: no model file (says what it is instead), damaged, or truncated.
        UnsupportedArtifact: sound, but no language model: an adapter, a vision projector, a vocabulary.
    """
    where = expanded(path)
    try:
        mode = os.stat(where).st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _ABSENT:
            raise BadArtifact(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
        hint = "`edgellm models` lists what the catalog knows"
        raise UnknownModel(f"{path} does not exist", hint=hint) from error
    if stat.S_ISDIR(mode):
        return _folder(where, model_id)
    if not stat.S_ISREG(mode):
        raise BadArtifact(f"{path} is neither a file nor a folder", hint="give the path of a .gguf file")
    try:
        with open(where, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from error
    kind, words = sniff(start)
    if kind == "gguf":
        return _gguf(where, model_id)
    if kind == "safetensors":
        return Artifact("safetensors", (str(where),), model_id or where.stem, bytes=_safetensors_bytes(where))
    if where.suffix == ".onnx":
        return _inspected(where, "onnx", model_id or where.stem)
    raise BadArtifact(f"{path} is not a model: it is {words}", hint="give a .gguf file, or the folder of an ONNX model")


def _gguf(where: Path, model_id: str | None) -> Artifact:
    model = reader.read_model(where)
    role = model.header.metadata.get("general.type", "model")
    if role != "model" or not model.tensors:
        what = f"a GGUF file of type {str(role)[:40]!r}" if role != "model" else "a vocabulary without tensors"
        raise UnsupportedArtifact(f"{where} is {what}, no language model", hint="give the model's own file")
    return Artifact(
        format="gguf",
        paths=model.paths,
        model_id=model_id or re.sub(r"-\d{5}-of-\d{5}$", "", where.stem),
        quant=reader.quant_name(model.header, model.tensors),
        bytes=model.file_bytes,
        shape=reader.shape(model.header, model.tensors),
        ctx_train=reader.context_length(model.header),
    )


def inspect(path: str, file_format: str) -> ModelFacts:
    """What the headers at `path` say, of a format that an installed backend reads.

    Raises:
        UnsupportedArtifact: no installed backend reads the format. Others: as `Inspector.inspect`.
    """
    for backend in plugins().backends().values():
        if file_format in backend.formats and isinstance(backend, Inspector):
            facts: ModelFacts = answer(backend, "inspect", path)
            return facts
    raise UnsupportedArtifact(
        f"{path} is a model in {file_format}, and no installed backend reads its header",
        hint=f"install edgellm-{file_format} to read it; `edgellm plugins` lists what is installed"
        + plugins().suspects("register_backends"),
    )


def _inspected(where: Path, file_format: str, model_id: str) -> Artifact:
    facts = inspect(str(where), file_format)
    return Artifact(
        format=file_format,
        paths=(str(where),),
        model_id=model_id,
        quant=facts.quant,
        bytes=facts.file_bytes,
        shape=facts.shape,
        ctx_train=facts.ctx_train,
    )


def _folder(where: Path, model_id: str | None) -> Artifact:
    """A folder with one GGUF model, with ONNX files, or with safetensors."""
    by_suffix: dict[str, list[Path]] = {}
    for file in sorted(path for path in where.iterdir() if path.is_file()):
        by_suffix.setdefault(file.suffix, []).append(file)
    ggufs = [file for file in by_suffix.get(".gguf", []) if not re.search(r"-(?!00001)\d{5}-of-\d{5}$", file.stem)]
    if len(ggufs) > 1:
        names = ", ".join(file.name for file in ggufs[:6])
        raise UnknownModel(f"{where} holds {len(ggufs)} GGUF models", hint=f"name one of them: {names}")
    if ggufs:
        return _gguf(ggufs[0], model_id)
    if by_suffix.get(".onnx") or any((where / "onnx").glob("*.onnx")):
        return _inspected(where, "onnx", model_id or where.name)
    if by_suffix.get(".safetensors"):
        config = _config(where)
        name, shape = model_id or where.name, _encoder_shape(config, where)
        ctx_train = config.get("max_position_embeddings", 0) if shape is None else _encoder_length(config, where)
        ctx_train = ctx_train if isinstance(ctx_train, int) and 0 < ctx_train < 2**31 else 0
        n_bytes = _safetensors_bytes(where)
        return Artifact("safetensors", (str(where),), name, bytes=n_bytes, shape=shape, ctx_train=ctx_train)
    raise UnknownModel(f"{where} holds no model", hint="a model folder has .gguf, .onnx or .safetensors files in it")


def _safetensors_bytes(where: Path) -> int:
    """Of the files that hold the model; beside them may lie anything. 0 where they cannot be read."""
    try:
        return read_safetensors(where).file_bytes
    except ArtifactError:
        return 0  # whoever loads it says what is wrong


def _encoder_shape(config: dict[str, Any], where: Path) -> Shape | None:
    """Of a BERT, which keeps no cache; None of any other folder, or where the configuration is damaged."""
    if config.get("model_type") != "bert":
        return None
    try:
        return replace(shape_of(config, where, any_type=True), kv_full_bytes=0)
    except ArtifactError:
        return None


def _encoder_length(config: dict[str, Any], where: Path) -> int:
    try:
        return encoder_length(where, config)[0]
    except ArtifactError:
        return 0  # whoever loads it says what is wrong


def _config(where: Path) -> dict[str, Any]:
    """The folder's config.json; empty where there is none that can be read."""
    try:
        return config_of(where)
    except BadArtifact:
        return {}
