"""A model that lies in an OCI layout: its layers are hashed once, and get the names that the artifact gives them.

cache_dir()/modelpack/<hash of the manifest>/<name>    links to the layout's blobs, which are used where they lie
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from edgellm import settings
from edgellm.errors import BadArtifact, UsageError
from edgellm.formats.oci.layout import MANIFEST_TYPE, Descriptor, Layout, one_tagged, tagged
from edgellm.formats.oci.modelpack import PackedFile, is_modelpack, packed_files
from edgellm.store.content_hash import content_hash
from edgellm.types.model import Artifact


def unpacked(path: Path) -> Path | None:
    """The model file, or the folder of one, that `FOLDER` or `FOLDER:TAG` names; None where no layout is there.

    Raises:
        BadArtifact: a digest or a size is another one, or a name cannot be. UnsupportedArtifact: a form that is not
        read. UsageError: there is no such model, or several; the links cannot be made.
    """
    named = tagged(path)
    if named is None:
        return None
    folder, tag = named
    layout = Layout(folder)
    row = one_tagged(folder, _models(layout), tag, "model")
    files = packed_files(layout.manifest(row))
    blobs = {file.name: _checked(layout, file) for file in files}
    place = settings.current().cache_dir / "modelpack" / row.sha256[:32]
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, blob in blobs.items():
            _link(place / name, blob)
    except OSError as error:
        hint = "set EDGELLM_HOME to a folder that can be written"
        raise UsageError(f"{place} cannot be written: {error.strerror}", hint=hint, param="model") from None
    is_gguf = all(file.name.endswith(".gguf") for file in files if file.is_weight)
    return place / files[0].name if is_gguf else place


def _models(layout: Layout) -> tuple[Descriptor, ...]:
    """Rows of the index that are models. Each manifest is read once, however many rows name it."""
    rows = [row for row in layout.index().manifests if row.media_type == MANIFEST_TYPE]
    by_hash = {row.sha256: row for row in rows}
    are_models = {sha256: is_modelpack(layout.manifest(row)) for sha256, row in by_hash.items()}
    return tuple(row for row in rows if are_models[row.sha256])


def _checked(layout: Layout, file: PackedFile) -> Path:
    """
    Raises:
        BadArtifact: the layer's bytes are not those of its digest.
    """
    blob = layout.blob(file.layer).absolute()
    sha256 = content_hash(Artifact("", (str(blob),), ""))
    if sha256 != file.layer.sha256:
        message = f"{file.name} in {layout.folder} has sha256 {sha256}, its digest says {file.layer.sha256}"
        raise BadArtifact(message, hint="copy or pull it again")
    return blob


def _link(path: Path, blob: Path) -> None:
    if path.is_symlink() and os.readlink(path) == str(blob):
        return
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")  # others may link the same at this moment
    os.symlink(blob, part)
    os.replace(part, path)
