"""Hugging Face folders: `config.json` and safetensors, packed (`quant_method: bitnet`) or master weights."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.hf_config import CONFIG, config_of, object_of
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm_bitnet.architecture import from_config, is_first_bitnet
from edgellm_bitnet.layout import REAL_TYPES, roles
from edgellm_bitnet.weights import Raw, checked_reals, release, stamps

TOP = {
    "token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight", "output.weight": "lm_head.weight",
}  # fmt: skip
# GGUF name of a block's tensor -> Hugging Face names, of which a folder has one (1bitLLM's own come second).
BLOCK = {
    "attn_norm": ("input_layernorm",),
    "attn_q": ("self_attn.q_proj",),
    "attn_k": ("self_attn.k_proj",),
    "attn_v": ("self_attn.v_proj",),
    "attn_output": ("self_attn.o_proj",),
    "attn_q_norm": ("self_attn.q_norm",),
    "attn_k_norm": ("self_attn.k_norm",),
    "attn_sub_norm": ("self_attn.attn_sub_norm", "self_attn.inner_attn_ln"),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn_gate": ("mlp.gate_proj",),
    "ffn_up": ("mlp.up_proj",),
    "ffn_down": ("mlp.down_proj",),
    "ffn_sub_norm": ("mlp.ffn_sub_norm", "mlp.ffn_layernorm"),
    # A norm before each product: BitNet embedding models; transformers' own name for it comes second.
    "attn_q_norm_in": ("self_attn.q_proj.norm", "self_attn.q_proj.rms_norm"),
    "attn_k_norm_in": ("self_attn.k_proj.norm", "self_attn.k_proj.rms_norm"),
    "attn_v_norm_in": ("self_attn.v_proj.norm", "self_attn.v_proj.rms_norm"),
    "attn_output_norm_in": ("self_attn.o_proj.norm", "self_attn.o_proj.rms_norm"),
    "ffn_gate_norm_in": ("mlp.gate_proj.norm", "mlp.gate_proj.rms_norm"),
    "ffn_up_norm_in": ("mlp.up_proj.norm", "mlp.up_proj.rms_norm"),
    "ffn_down_norm_in": ("mlp.down_proj.norm", "mlp.down_proj.rms_norm"),
}


class FolderWeights:
    """The tensors of one folder by GGUF's names (see `weights.Weights`)."""

    def __init__(self, path: str) -> None:
        folder = Path(path) if os.path.isdir(path) else Path(path).parent
        self.where = str(folder)
        self.model = read_safetensors(folder if os.path.isdir(path) else path)
        config, described = config_of(folder), str(folder / CONFIG)
        self.architecture = from_config(config, described)
        quantization = object_of(config, "quantization_config", described)
        method = quantization.get("quant_method")
        if self.architecture.name == "gemma3":
            raise UnsupportedArtifact(
                f"{self.where}: folders of gemma3 models are not opened", hint="take the model's GGUF file"
            )
        trained = config.get("model_type") == "bitnet" or is_first_bitnet(config)
        if method not in ("bitnet", None) or (method is None and not trained):
            raise UnsupportedArtifact(
                f"{self.where}: config.json does not say that this model was trained ternary "
                f"(quant_method {reprlib.repr(method)})",
                hint="models of other kinds run on the gguf or onnx backend",
            )
        self._ties = bool(config.get("tie_word_embeddings"))
        self._check_names()
        eps = quantization.get("rms_norm_eps", 1e-6)  # as transformers has it
        if quantization.get("use_rms_norm") and eps != self.architecture.eps:
            epsilons = f"{reprlib.repr(eps)}, the others of {self.architecture.eps}"
            raise UnsupportedArtifact(f"{self.where}: norms before products have an epsilon of {epsilons}")
        # `autobitlinear` multiplies by weight_scale, `bitlinear` divides by it (transformers, integrations/bitnet.py).
        self._divides = quantization.get("linear_class", "bitlinear") == "bitlinear"

    def matrix(self, role: str) -> Raw | None:
        """See `weights.Weights.matrix`. Packed tensors hold four output rows in a byte.

        Raises:
            BadArtifact: it is no matrix, of a type that means nothing here, or its scale is no positive number.
        """
        name = self._name(role)
        if name is None or (role == "output.weight" and self._tied(name)):
            return None
        tensor = self.model.tensors[name]
        if len(tensor.shape) != 2:
            raise BadArtifact(f"{self.where}: {name} has shape {tensor.shape}, two dimensions are needed")
        rows, cols = tensor.shape
        data = np.frombuffer(self.model.raw(name), np.uint8)
        if tensor.dtype in REAL_TYPES:
            return Raw(role, tensor.dtype, data, rows, cols, offset=tensor.offset)
        if tensor.dtype != "U8":
            raise BadArtifact(f"{self.where}: {name} is {tensor.dtype}; U8, F32, F16 or BF16 is needed")
        scale = self.vector(f"{role}_scale", 1)
        if scale is None:
            raise BadArtifact(f"{self.where}: {name} is packed and has no weight_scale")
        factor = 1.0 / float(scale[0]) if self._divides and scale[0] else float(scale[0])
        if not 0 < factor < float("inf"):
            raise BadArtifact(f"{self.where}: {name} at byte {tensor.offset} has weight_scale {scale[0]}")
        return Raw(role, "PACKED", data, 4 * rows, cols, factor, tensor.offset)

    def vector(self, role: str, size: int) -> npt.NDArray[np.float32] | None:
        """See `weights.Weights.vector`."""
        name = self._name(role)
        if name is None:
            return None
        tensor = self.model.tensors[name]
        data = np.frombuffer(self.model.raw(name), np.uint8)
        return checked_reals(f"{self.where}: {name}", tensor.dtype, data, size, tensor.offset)

    def fingerprint(self) -> list[object]:
        return [*stamps((*self.model.paths, os.path.join(self.where, CONFIG)))]

    def release(self) -> None:
        for mapping in self.model.mappings:
            release(mapping)

    def _check_names(self) -> None:
        """Raises UnsupportedArtifact: a tensor that nothing here computes with."""
        read = {name for role in roles(self.architecture) for name in names_of(role)}
        scales = {f"{name}_scale" for name in read}
        unknown = [n for n in sorted(self.model.tensors.keys() - read - scales) if not n.endswith("inv_freq")]
        if unknown:
            raise UnsupportedArtifact(
                f"{self.where}: tensor {unknown[0]} has no place in {self.architecture.layers} layers of "
                f"{self.architecture.name}",
                hint="without it its answers would be wrong; other models run on the gguf or onnx backend",
            )

    def _name(self, role: str) -> str | None:
        return next((name for name in names_of(role) if name in self.model.tensors), None)

    def _tied(self, name: str) -> bool:
        """Whether a saved lm_head is the embedding, as the configuration says or its bytes show."""
        if self._ties:
            return True
        embedding = self._name("token_embd.weight")
        return embedding is not None and self.model.raw(name) == self.model.raw(embedding)


def names_of(role: str) -> list[str]:
    """What a folder may call it: with `model.`, or without, where the head of the model is of another kind."""
    block, _, rest = role.removeprefix("blk.").partition(".")
    stem, _, suffix = rest.rpartition(".")
    names = [TOP[role]] if role in TOP else [f"layers.{block}.{name}.{suffix}" for name in BLOCK.get(stem, ())]
    return [prefix + name for name in names for prefix in ("model.", "")]
