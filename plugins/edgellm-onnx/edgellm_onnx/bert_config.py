"""config.json of a BERT folder: what its graph is built from. Reads JSON only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.json_file import read_object

KINDS = ("BertModel", "BertForSequenceClassification")


@dataclass(frozen=True, slots=True)
class Bert:
    """What config.json says."""

    layers: int
    width: int
    heads: int
    eps: float
    scores: bool  # a cross-encoder

    @classmethod
    def of(cls, config: dict[str, Any], where: Path) -> Bert:
        """Raises: UnsupportedArtifact: another family, activation or kind of positions. BadArtifact: no counts."""
        kinds = config.get("architectures") or ["BertModel"]
        kind = kinds[0] if isinstance(kinds, list) else str(kinds)
        if config.get("model_type") != "bert" or kind not in KINDS:
            raise UnsupportedArtifact(
                f"{where}: {str(config.get('model_type'))[:40]} ({str(kind)[:60]}) is not converted here",
                hint=f"known: bert ({', '.join(KINDS)}); other encoders as ONNX folders of their publishers",
            )
        for key, supported in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
            if config.get(key, supported) != supported:
                value = str(config[key])[:40]
                raise UnsupportedArtifact(f"{where}: {key} {value!r} is not converted, only {supported}")
        counts = [config.get(key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")]
        if not all(type(count) is int and 0 < count < 2**20 for count in counts):
            raise BadArtifact(f"{where}: layers, width and heads are {counts}", hint="fetch it again")
        layers, width, heads = (int(count or 0) for count in counts)
        eps = config.get("layer_norm_eps", 1e-12)
        if width % heads or not isinstance(eps, float) or not 0 < eps < 1:
            raise BadArtifact(f"{where}: {heads} heads of {width}, epsilon {eps!r}", hint="fetch it again")
        return cls(layers, width, heads, eps, kind == KINDS[1])


def bert_config(source: Path) -> Bert:
    """Of a folder, or of the one that a file lies in. Raises as `Bert.of`."""
    folder = source if source.is_dir() else source.parent
    return Bert.of(read_object(folder / "config.json"), folder / "config.json")
