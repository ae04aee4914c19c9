"""From a model on this disk to an artifact in an OCI layout."""

from __future__ import annotations

from pathlib import Path

from edgellm.app import context as app_context
from edgellm.app.resolve import resolve
from edgellm.contract.source import Progress
from edgellm.files import require_room, writing
from edgellm.formats.oci.layout import Descriptor
from edgellm.image import model_artifact
from edgellm.image.writer import writing_layout
from edgellm.store.library import silent
from edgellm.types.model import Artifact


def write(
    artifact: Artifact, name: str, output: Path, tag: str, *, force: bool = False, progress: Progress = silent
) -> Descriptor:
    """Add a model to the layout in `output`; `name` is what the user called it.

    Raises:
        UsageError: `output` is no layout, or has that tag already. UnsupportedArtifact: the model is built in.
        IntegrityError: a file changed. DiskFull.
    """
    card = resolve(name, app_context.here()).card
    files = model_artifact.artifact_files(artifact)
    n_bytes = sum(path.stat().st_size for path in files)
    with writing(output, param="output"):
        require_room(output.absolute().parent, n_bytes, "the artifact", hint="name a folder on another disk")
        with writing_layout(output, tag, force=force) as writer:
            return model_artifact.write(writer, card, artifact, files, tag=tag, progress=progress)
