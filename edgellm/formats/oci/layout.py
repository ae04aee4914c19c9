"""An OCI image layout, read as what anybody may have written: sizes are bounded, digests are compared, and no path that
it names is followed.

    FOLDER/
      oci-layout        version of the layout
      index.json        descriptors of manifests, each with a tag
      blobs/sha256/     manifests, configs and layers, named by their hash
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.files import read_regular

MARK, INDEX, BLOBS = "oci-layout", "index.json", "blobs/sha256"
VERSION = "1.0.0"
REF_NAME = "org.opencontainers.image.ref.name"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MAX_JSON_BYTES = 4 * 1024**2  # of an index, a manifest or a config
MAX_MANIFESTS = 1000
MAX_LAYERS = 4096

_Text = Annotated[str, Meta(max_length=255)]
_Annotations = Annotated[dict[str, str], Meta(max_length=1000)]
_Record = TypeVar("_Record", bound=Struct)


class ImagePlatform(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine that an image is for, in Go's words."""

    architecture: _Text
    os: _Text
    variant: _Text = ""


class Descriptor(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A blob: what it is, its hash and its size."""

    media_type: _Text
    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0, le=2**50)]
    annotations: _Annotations = {}
    platform: ImagePlatform | None = None
    artifact_type: _Text = ""

    @property
    def sha256(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def tag(self) -> str:
        return self.annotations.get(REF_NAME, "")


class Index(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a layout holds."""

    manifests: Annotated[tuple[Descriptor, ...], Meta(max_length=MAX_MANIFESTS)]
    schema_version: Annotated[int, Meta(ge=2, le=2)]
    media_type: _Text = ""
    annotations: _Annotations = {}


class ImageManifest(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image or another artifact: its config and its layers, the lowest first."""

    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=MAX_LAYERS)]
    schema_version: Annotated[int, Meta(ge=2, le=2)]
    media_type: _Text = ""
    artifact_type: _Text = ""
    annotations: _Annotations = {}


class Layout:
    """The layout in a folder. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def index(self) -> Index:
        """
        Raises:
            BadArtifact: it is damaged. UnsupportedArtifact: of another version.
        """
        version = self._read(MARK, _Mark).image_layout_version
        if version != VERSION:
            message = f"{self.folder} is an OCI layout of version {version}, this version of EdgeLLM reads {VERSION}"
            raise UnsupportedArtifact(message, hint="write it again with a tool for that version")
        return self._read(INDEX, Index)

    def manifest(self, descriptor: Descriptor) -> ImageManifest:
        """
        Raises:
            BadArtifact: it is damaged. UnsupportedArtifact: it is an index of its own.
        """
        if descriptor.media_type != MANIFEST_TYPE:
            message = f"{descriptor.tag or descriptor.digest} in {self.folder} is {descriptor.media_type}"
            raise UnsupportedArtifact(message, hint=f"a manifest is {MANIFEST_TYPE}")
        return self._decoded(self.read(descriptor), descriptor.digest, ImageManifest)

    def read(self, descriptor: Descriptor) -> bytes:
        """A small blob, whole.

        Raises:
            BadArtifact: it is not there, has another size or hash, or is too large.
        """
        path = self.blob(descriptor)
        if descriptor.size > MAX_JSON_BYTES:
            raise _damaged(self.folder, f"{descriptor.digest} has {descriptor.size} bytes, at most {MAX_JSON_BYTES}")
        try:
            content = read_regular(path, descriptor.size)
        except OSError as error:
            raise _damaged(self.folder, f"{descriptor.digest} cannot be read: {error.strerror}") from None
        if len(content) != descriptor.size or hashlib.sha256(content).hexdigest() != descriptor.sha256:
            raise _damaged(self.folder, f"{descriptor.digest} has another size or hash")
        return content

    def blob(self, descriptor: Descriptor) -> Path:
        """Where a blob lies: a regular file of its size, whose hash was not compared.

        Raises:
            BadArtifact: there is none, or something else.
        """
        path = self.folder / BLOBS / descriptor.sha256
        try:
            status = path.lstat()  # a link could lead anywhere
        except OSError as error:
            raise _damaged(self.folder, f"{descriptor.digest} is not there: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode) or status.st_size != descriptor.size:
            raise _damaged(self.folder, f"{descriptor.digest} is no file of {descriptor.size} bytes")
        return path

    def _read(self, name: str, kind: type[_Record]) -> _Record:
        try:
            content = read_regular(self.folder / name, MAX_JSON_BYTES)
        except OSError as error:
            raise _damaged(self.folder, f"its {name} cannot be read: {error.strerror}") from None
        return self._decoded(content, name, kind)

    def _decoded(self, content: bytes, what: str, kind: type[_Record]) -> _Record:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _damaged(self.folder, f"its {what} cannot be understood: {error}") from None


class _Mark(Struct, rename="camel"):
    image_layout_version: _Text


def is_layout(folder: Path) -> bool:
    return os.path.isfile(folder / MARK)  # not where nobody may look, either


def tagged(path: Path) -> tuple[Path, str] | None:
    """The folder and the tag (may be "") that `FOLDER` or `FOLDER:TAG` names; None where no layout is there."""
    if is_layout(path):
        return path, ""
    name, colon, tag = path.name.rpartition(":")
    if colon and is_layout(path.with_name(name)):
        return path.with_name(name), tag
    return None


def one_tagged(folder: Path, rows: tuple[Descriptor, ...], tag: str, what: str) -> Descriptor:
    """The one of that tag; "" = the only one there is. `what` is what is looked for.

    Raises:
        UsageError: none, or several.
    """
    matching = [row for row in rows if tag in ("", row.tag)]
    if len(matching) == 1:
        return matching[0]
    tags = ", ".join(sorted({row.tag for row in rows if row.tag})) or "none"
    message = f"{folder} has {len(matching)} {what}s{f' tagged {tag!r}' if tag else ''}, one is needed"
    raise UsageError(message, hint=f"name one as FOLDER:TAG; tags there: {tags}", param="model")


def _damaged(folder: Path, what: str) -> BadArtifact:
    return BadArtifact(f"{folder} is no sound OCI layout: {what}", hint="copy or pull it again")
