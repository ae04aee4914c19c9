"""What a model's answers are drawn by where requests do not say: the one place where the rows are put in order.

The operator's setting, then what the file says; where it says nothing, the catalog's row and the usual values. The
request's own values stand before them all, and are added by whoever has the request (`SamplingDefaults`).
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgellm import explain
from edgellm.formats import sampling_keys
from edgellm.formats.gguf.summary import summary_of
from edgellm.types.model import Artifact, ModelCard
from edgellm.types.sampling import Sampling
from edgellm.types.sampling_defaults import NOTHING_SAID, USUAL, FileSampling, SamplingDefaults, SamplingPart, by_rank

_log = logging.getLogger("edgellm.sampling")


def of(
    artifact: Artifact | None, card: ModelCard | None, asked: Sampling | None = None, *, thinking: bool = False
) -> SamplingDefaults:
    """The defaults of a model, each value with the row that it is from.

    Args:
        artifact: its file, whose keys count; None = it is not here.
        card: its row in the catalog; None = it has none.
        asked: the operator's setting.
        thinking: for answers that think first, of a model that may do so or not.

    Raises:
        BadArtifact: the file is damaged. UsageError: a value of the row is out of range.
    """
    said = of_file(artifact) if artifact is not None else NOTHING_SAID
    rows = [SamplingPart("operator", asked or Sampling())]
    if said.values != Sampling():
        rows.append(SamplingPart("file", said.values, _source(artifact)))
    else:
        rows += [*_of_catalog(card, thinking), USUAL]
    return SamplingDefaults(by_rank(rows), said.unused)


def warn(defaults: SamplingDefaults) -> None:
    """Logs which of the file's values are not used, because they are out of range."""
    for key in defaults.unused:
        if key.allowed:
            _log.warning(explain.unused_key(key))


def writes(artifact: Artifact, card: ModelCard | None) -> bool:
    """Whether it writes text, as far as is known before it is loaded."""
    if card is not None:
        return card.kind not in ("embedding", "reranker")
    shape = artifact.shape
    return shape is None or bool(shape.kv_full_bytes or shape.kv_swa_bytes or shape.recurrent_bytes)


def of_file(artifact: Artifact) -> FileSampling:
    """What the file or the folder says.

    Raises:
        BadArtifact: it is damaged.
    """
    if artifact.format == "gguf":
        return summary_of(artifact.path).sampling
    if not artifact.path:
        return NOTHING_SAID
    return sampling_keys.of_folder(_folder(Path(artifact.path)))


def _folder(path: Path) -> Path:
    """Where generation_config.json lies: a folder of ONNX may have its graphs in one of their own."""
    folder = path if path.is_dir() else path.parent
    return (
        folder.parent if folder.name == "onnx" and not (folder / sampling_keys.GENERATION_CONFIG).exists() else folder
    )


def _source(artifact: Artifact | None) -> str:
    is_gguf = artifact is not None and artifact.format == "gguf"
    return f"{sampling_keys.PREFIX}*" if is_gguf else sampling_keys.GENERATION_CONFIG


def _of_catalog(card: ModelCard | None, thinking: bool) -> list[SamplingPart]:
    """The rows for how the model answers."""
    if card is None:
        return []
    return [row.part for row in card.sampling if row.thinking in (None, card.thinks(thinking))]
