"""A model as a ModelPack artifact: each of its files is a raw layer, whose digest is the file's own sha256."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgellm.contract.source import Progress
from edgellm.errors import IntegrityError, UnsupportedArtifact
from edgellm.formats.oci import modelpack
from edgellm.formats.oci.layout import MANIFEST_TYPE, Descriptor, ImageManifest
from edgellm.formats.oci.modelpack import Facts, LayerHashes, ModelConfig, Technical
from edgellm.image.writer import LayoutWriter, record_bytes
from edgellm.store.manifest import RECORD
from edgellm.types.model import Artifact, ModelCard

_PIECE = 1024**2


def artifact_files(artifact: Artifact) -> list[Path]:
    """The files that are the model; where it is a folder, those in there.

    Raises:
        UnsupportedArtifact: it is built in, or has folders in its folder.
    """
    paths = [Path(path) for path in artifact.paths]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(path for path in paths[0].iterdir() if path.name != RECORD and not path.name.startswith("."))
    if not paths or not all(path.is_file() for path in paths):
        message = f"{artifact.name} is not made of files, so there is nothing to pack"
        raise UnsupportedArtifact(message, hint="name a model of the catalog, or a file")
    return paths


def write(
    writer: LayoutWriter, card: ModelCard, artifact: Artifact, files: Sequence[Path], *, tag: str, progress: Progress
) -> Descriptor:
    """Add a model to a layout.

    Raises:
        IntegrityError: a file is no longer what it was when it was stored. OSError.
    """
    done, total = 0, sum(path.stat().st_size for path in files)
    weights = modelpack.weights_in(path.name for path in files)
    layers = []
    for path in files:
        with open(path, "rb") as file, writer.blob() as blob:
            while piece := file.read(_PIECE):
                blob.write(piece)
                done += len(piece)
                progress(done, total, "packing")
            if artifact.sha256 and len(files) == 1 and blob.sha256 != artifact.sha256:
                message = f"{path} has sha256 {blob.sha256}, {artifact.sha256} was stored"
                raise IntegrityError(message, hint="fetch it again: it changed since it was stored")
        media_type = modelpack.WEIGHT if path.name in weights else modelpack.WEIGHT_CONFIG
        layers.append(blob.descriptor(media_type, annotations={modelpack.FILE_PATH: path.name}))
    config = writer.put(record_bytes(_config(card, artifact, layers)), modelpack.CONFIG_TYPE)
    manifest = ImageManifest(
        schema_version=2, media_type=MANIFEST_TYPE, artifact_type=modelpack.ARTIFACT_TYPE, config=config,
        layers=tuple(layers),
    )  # fmt: skip
    return writer.finish(manifest, tag, artifact_type=modelpack.ARTIFACT_TYPE)


def _config(card: ModelCard, artifact: Artifact, layers: Sequence[Descriptor]) -> ModelConfig:
    return ModelConfig(
        descriptor=Facts(
            name=card.id, family=card.family,
            licenses=(card.license,) if card.license not in ("", "unknown") else (),
        ),
        config=Technical(
            architecture="transformer", format=artifact.format, param_size=modelpack.param_size(card.params),
            quantization=artifact.quant,
        ),
        modelfs=LayerHashes(diff_ids=tuple(layer.digest for layer in layers)),
    )  # fmt: skip
