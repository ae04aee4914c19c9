"""From a plan to an engine: the reader that the artifact needs, its tokenizer, and that both agree."""

from __future__ import annotations

from edgellm.errors import BadArtifact
from edgellm.formats.tokenizer import from_gguf, from_json
from edgellm.formats.tokenizer.tokenizer import Tokenizer
from edgellm.types.plan import LaunchPlan
from edgellm_bitnet.engine import BitnetEngine
from edgellm_bitnet.options import Options
from edgellm_bitnet.weights import GgufWeights, Weights


def open_engine(plan: LaunchPlan, options: Options) -> BitnetEngine:
    """Raises BadArtifact, UnsupportedArtifact, BackendUnavailable, or OSError where the library does not load."""
    weights, tokenizer = _open(plan, options)
    vocab = weights.architecture.vocab
    if tokenizer.n_tokens > vocab:
        raise BadArtifact(
            f"{weights.where}: the tokenizer has {tokenizer.n_tokens} tokens, the embedding {vocab} rows",
            hint="the file's tokenizer belongs to another model",
        )
    return BitnetEngine(weights, tokenizer, plan.settings, options)


def _open(plan: LaunchPlan, options: Options) -> tuple[Weights, Tokenizer]:
    if plan.artifact.format == "gguf":
        weights = GgufWeights(plan.artifact.path, options.i2s_layout)
        return weights, from_gguf.read_tokenizer(weights.model.header)
    from edgellm_bitnet.folder import FolderWeights

    return FolderWeights(plan.artifact.path), from_json.read_tokenizer(plan.artifact.path)
