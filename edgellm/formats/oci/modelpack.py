"""A model as an OCI artifact, in the form of the CNCF's ModelPack (model-spec 0.0.7): each file a layer of its own.

Source of the words: spec, config and annotations of modelpack/model-spec. Written are raw layers only, so that a
layer's digest is the sha256 of the file itself. Read are raw layers, those of Docker among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

from msgspec import Meta, Struct

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.oci.layout import Descriptor, ImageManifest

SPEC_VERSION = "0.0.7"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
FILE_PATH = "org.cncf.model.filepath"
_TITLE = "org.opencontainers.image.title"  # where ORAS names files
_DOCKER_CONFIG = "application/vnd.docker.ai.model.config."
_WEIGHTS = frozenset({WEIGHT, "application/vnd.cncf.model.weight.v1.gguf", "application/vnd.docker.ai.gguf.v3"})
_PASSED_OVER = (".doc.", ".code.", ".dataset.", "vnd.docker.ai.license")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=~-]{0,199}")


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`descriptor` of a config: what the model is."""

    name: Annotated[str, Meta(max_length=500)] = ""
    family: Annotated[str, Meta(max_length=500)] = ""
    licenses: Annotated[tuple[str, ...], Meta(max_length=100)] = ()


class Technical(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """`config` of a config: how it is stored."""

    architecture: str = ""
    format: str = ""
    param_size: str = ""
    quantization: str = ""


class LayerHashes(Struct, frozen=True, kw_only=True, rename="camel"):
    diff_ids: Annotated[tuple[str, ...], Meta(min_length=1)]
    type: str = "layers"


class ModelConfig(Struct, frozen=True, kw_only=True):
    """The config of an artifact. Fields that are not ours are passed over."""

    descriptor: Facts
    config: Technical
    modelfs: LayerHashes


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of a model: a plain name, and the layer that is its bytes."""

    name: str
    layer: Descriptor
    is_weight: bool


def is_modelpack(manifest: ImageManifest) -> bool:
    """Whether it is a model, by its config; tools of before artifact types state nothing else."""
    kind = manifest.config.media_type
    return CONFIG_TYPE in (kind, manifest.artifact_type) or kind.startswith(_DOCKER_CONFIG)


def packed_files(manifest: ImageManifest) -> list[PackedFile]:
    """The files that are the model, weights first.

    Raises:
        UnsupportedArtifact: layers are packed or compressed, or in folders. BadArtifact: names that cannot be.
    """
    files = [
        PackedFile(_name(layer, no), layer, layer.media_type in _WEIGHTS)
        for no, layer in enumerate(manifest.layers, 1)
        if not any(word in layer.media_type for word in _PASSED_OVER)
    ]
    names = [file.name.lower() for file in files]
    if len(set(names)) < len(names):
        raise BadArtifact("two layers of the artifact have one name", hint="pack it again")
    if not any(file.is_weight for file in files):
        raise UnsupportedArtifact("the artifact has no layer with weights", hint=f"a layer of them is {WEIGHT}")
    return sorted(files, key=lambda file: (not file.is_weight, file.name))


def _name(layer: Descriptor, no: int) -> str:
    if layer.media_type not in _WEIGHTS and layer.media_type != WEIGHT_CONFIG:
        message = f"layer {no} of the artifact is {layer.media_type[:120]}, which is not read"
        raise UnsupportedArtifact(message, hint="pack it with raw layers, as `modctl build --raw` does")
    stated = layer.annotations.get(FILE_PATH) or layer.annotations.get(_TITLE) or ""
    if not stated and layer.media_type in _WEIGHTS:
        return f"model-{layer.sha256[:16]}.gguf" if "gguf" in layer.media_type else f"model-{layer.sha256[:16]}"
    parts = PurePosixPath(stated).parts
    if len(parts) != 1 or _NAME.fullmatch(parts[0]) is None:
        raise BadArtifact(f"layer {no} has the name {stated[:120]!r}", hint="files of a model have plain names")
    return parts[0]


def param_size(n: int) -> str:
    """`135_000_000` -> `"135M"`, as model-spec writes numbers of parameters; at most one digit behind the point."""
    for scale, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= scale:
            return f"{n / scale:.1f}".removesuffix(".0") + letter
    return ""


def weights_in(names: Iterable[str]) -> set[str]:
    """Those of some files' names that hold weights."""
    return {name for name in names if name.endswith((".gguf", ".onnx", ".onnx_data", ".onnx.data", ".safetensors"))}
