"""What is known of a model: its shape, its published files, and the one artifact that lies on this disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgellm.types.layers import Layers
from edgellm.types.sampling_defaults import SamplingRow

THINKING_SCORE = "MMLU-Pro thinking"  # the name in `ModelCard.scores` of a score with thinking


@dataclass(frozen=True, slots=True)
class Shape:
    """The integers that weights, caches and speed follow from. Names are the GGUF header's.

    `kv_full_bytes` and `kv_swa_bytes` are F16 bytes per cached token summed over the layers of that kind, so that
    grouped, shared and latent caches need no special case here (docs/explain/memory-model.md).
    """

    arch: str  # GGUF `general.architecture`: "llama", "gemma3", "qwen3moe", ...
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    tied_embeddings: bool
    kv_full_bytes: int = 0  # layers that cache every token
    kv_swa_bytes: int = 0  # layers that cache a sliding window
    sliding_window: int = 0  # tokens; 0 = none
    recurrent_bytes: int = 0  # constant state per sequence
    n_attn: int | None = None  # layers with attention, None = all
    # Which layers these are; of a model without state, which attend to every token. () = all do, or nobody said which.
    full_layers: tuple[int, ...] = ()
    shared_kv_layers: int = 0  # last layers that read the cache of an earlier one, and have none
    per_layer_width: int = 0  # values that each layer gets of a token from a table for all layers (Gemma 3n, 4)
    draft_layers: int = 0  # blocks behind the layers that only draft tokens: llama.cpp counts them, and loads none
    n_expert: int = 0
    n_expert_used: int = 0
    n_ff_expert: int = 0


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One published file (or set of split files) of a model in one quantization."""

    source: str  # "hf://owner/repo/file.gguf", "pypi://package==version/member", "file:/path"
    quant: str  # "Q4_K_M", "I2_S", ...
    format: str = "gguf"  # artifact format, matched with Backend.formats
    bytes: int | None = None
    sha256: str | None = None
    tensor_bytes: int | None = None
    trust: str = ""  # where size, hash and name come from
    # Where the publisher's mix is not what its name says: role of a tensor (estimate/architecture.py) -> type in all
    # layers, and how that is known.
    types: dict[str, str] = field(default_factory=dict)
    types_source: str = ""
    layers: Layers | None = field(default=None, repr=False)  # of its header; None = it was not read
    made_from: str = ""  # the quantization that it was made from, whose loss it has too; "" = from the model as it was


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One catalog row."""

    id: str
    family: str
    kind: str  # "chat", "base", "embedding", "reranker"
    license: str
    ctx_train: int  # 0 = not known
    params: int
    params_active: int
    shape: Shape | None  # None = shapes unknown: never chosen, listed with that reason
    files: tuple[ModelFile, ...] = ()
    repos: tuple[str, ...] = ()  # hub repositories that carry the usual set of quants
    hf_repo: str = ""
    native_quant: str = ""  # trained in this type: "I2_S", "MXFP4"; no loss to account for
    thinking: bool = False  # always thinks before it answers
    scores: dict[str, float] = field(default_factory=dict)  # benchmark -> published score
    sampling: tuple[SamplingRow, ...] = ()  # what is recommended for it
    notes: str = ""
    source: str = ""
    trust: str = ""

    def thinks(self, asked: bool) -> bool:
        """Whether it thinks before it answers, where that is `asked` of models that can do either."""
        can = THINKING_SCORE in self.scores or any(row.thinking for row in self.sampling)
        return self.thinking or (asked and can)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the headers of a model on this disk say, of a format that only its backend reads (`Inspector`)."""

    quant: str  # of most weights that are multiplied with, as in `edgellm quants`; "" = not known
    file_bytes: int  # of everything that is needed to run it
    tensor_bytes: int  # of the weights
    params: int  # weights, each counted once
    shape: Shape | None  # None = the configuration does not tell
    ctx_train: int  # 0 = not known
    generates: bool  # False = an encoder: it keeps no cache


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a backend opens: files that exist, were checked, and can be trusted to be what they say."""

    format: str  # "gguf", "safetensors", "onnx", "echo"
    paths: tuple[str, ...]  # split files in order; one folder for ONNX; empty for echo
    model_id: str  # of its card: runs and quality checks are kept and looked up by it
    quant: str = ""
    bytes: int = 0
    sha256: str = ""
    shape: Shape | None = None
    ctx_train: int = 0
    shown_as: str = ""  # the name of the file that was named, or that it is stored under; "" = the model's id

    @property
    def name(self) -> str:
        """What users call it."""
        return self.shown_as or self.model_id

    @property
    def path(self) -> str:
        return self.paths[0] if self.paths else ""
