"""From a Hugging Face folder to a ternary GGUF file: names, keys, tokenizer, and rows in the order that GGUF has them.

llama.cpp rotates neighbours in the `llama` family, where these folders rotate halves, so rows of q and k are reordered
for that family and no other.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.source import Progress
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.formats import sampling_keys
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import TensorInfo, Value
from edgellm.formats.hf_config import CONFIG, config_of, object_of
from edgellm.formats.rope import frequencies, llama3_kept, yarn_magnitude
from edgellm.formats.safetensors.reader import SafetensorsModel, SafetensorsTensor, read_safetensors
from edgellm_bitnet.architecture import Architecture, from_config
from edgellm_bitnet.codecs import floats, master, packed
from edgellm_bitnet.convert import Piece, Source, type_keys, write
from edgellm_bitnet.folder import names_of
from edgellm_bitnet.layout import fused, input_vectors, layer_vectors, roles
from edgellm_bitnet.targets import Table, write_table, write_ternary
from edgellm_bitnet.ternary import Codes, Floats, Ternary
from edgellm_bitnet.vocabulary import vocabulary_keys

FAMILIES = ("bitnet-b1.58", "bitnet", "llama", "qwen3")
# Read with its matrix, and computed from the configuration.
_SKIPPED = (".weight_scale", "rotary_emb.inv_freq")


def convert(conversion: Conversion, progress: Progress) -> Converted:
    """See `edgellm.contract.converter.Converter`."""
    if conversion.i2s_layout:
        raise UsageError("--i2s-layout is about I2_S files, the source is a folder", hint="leave it out")
    source = FolderSource(conversion)
    progress(0, None, "reading the tokenizer")
    keys = source.keys() | vocabulary_keys(source.folder, source.arch.vocab)
    return write(conversion, source, keys, source.pieces(), progress)


class FolderSource(Source):
    """A folder's tensors under GGUF's names, checked to be the whole model."""

    def __init__(self, conversion: Conversion) -> None:
        super().__init__(conversion)
        path = Path(conversion.source.path)
        self.folder = path if path.is_dir() else path.parent
        self.where = str(self.folder)
        self.config = config_of(self.folder)
        self.model: SafetensorsModel = read_safetensors(path)
        self.arch: Architecture = _architecture(self.config, str(self.folder / CONFIG))
        quantization = object_of(self.config, "quantization_config", self.folder / CONFIG)
        self.trained = quantization.get("quant_method") == "bitnet" or self.arch.name in ("bitnet-b1.58", "bitnet")
        self._class = quantization.get("linear_class", "bitlinear")
        self._names = self._roles()

    def keys(self) -> dict[str, Value]:
        """Keys as llama.cpp names them."""
        arch, name = self.arch, self.arch.name
        metadata: dict[str, Value] = {
            "general.architecture": name, "general.type": "model", "general.name": self.folder.resolve().name,
            "general.quantization_version": 2, f"{name}.vocab_size": arch.vocab,
            f"{name}.context_length": arch.ctx_train, f"{name}.embedding_length": arch.hidden,
            f"{name}.block_count": arch.layers, f"{name}.feed_forward_length": arch.ffn,
            f"{name}.attention.head_count": arch.heads, f"{name}.attention.head_count_kv": arch.kv_heads,
            f"{name}.attention.key_length": arch.head_dim, f"{name}.attention.value_length": arch.head_dim,
            f"{name}.attention.layer_norm_rms_epsilon": float(arch.eps),
            f"{name}.rope.dimension_count": arch.rope_dim, f"{name}.rope.freq_base": float(arch.rope_theta),
        }  # fmt: skip
        scaling = arch.rope_scaling
        if scaling.kind in ("linear", "yarn"):
            metadata |= {
                f"{name}.rope.scaling.type": scaling.kind,
                f"{name}.rope.scaling.factor": float(scaling.factor),
            }
        if scaling.kind == "yarn":
            metadata |= {
                f"{name}.rope.scaling.original_context_length": scaling.original_ctx or arch.ctx_train,
                f"{name}.rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
                f"{name}.rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
                f"{name}.rope.scaling.attn_factor": scaling.magnitude / yarn_magnitude(scaling.factor),
            }
        return metadata | sampling_keys.as_gguf(sampling_keys.of_folder(self.folder).values) | type_keys(self.target)

    def pieces(self) -> list[Piece]:
        """Tensors in the order of the layers.

        Raises:
            BadArtifact: one is missing, or of another shape. UnsupportedArtifact: one does not go into the type.
        """
        arch = self.arch
        tensors = [self._table("token_embd.weight", arch.vocab, arch.hidden)]
        if arch.rope_scaling.kind == "llama3":
            factors = rope_factors(arch)
            tensors.append(Piece(TensorInfo("rope_freqs.weight", (len(factors),), BY_NAME["F32"]), factors.tobytes))
        for layer in range(arch.layers):
            optional = [(tensor, size, False) for tensor, size in input_vectors(arch).values()]
            for tensor, size, needed in (*layer_vectors(arch).values(), *optional):
                role = f"blk.{layer}.{tensor}.weight"
                if needed or role in self._names:
                    tensors.append(self._norm(role, size))
            for parts in fused(arch).values():
                tensors += [self._matrix(f"blk.{layer}.{tensor}.weight", rows, cols) for tensor, rows, cols in parts]
        tensors.append(self._norm("output_norm.weight", arch.hidden))
        if "output.weight" in self._names:
            tensors.append(self._table("output.weight", arch.vocab, arch.hidden))
        return tensors

    def _roles(self) -> dict[str, str]:
        """GGUF name -> name in the folder.

        Raises:
            UnsupportedArtifact: a tensor that has no place in these families. BadArtifact: two for one place.
        """
        tensors, sources = self.model.tensors, dict[str, str]()
        for role in sorted(role for role in roles(self.arch) if role.endswith(".weight")):
            names = [name for name in names_of(role) if name in tensors]
            if len(names) > 1:
                raise BadArtifact(f"{self.where}: {names[0]} and {names[1]} are both {role}", hint="fetch it again")
            if names:
                sources[role] = names[0]
        unknown = [name for name in tensors.keys() - set(sources.values()) if not name.endswith(_SKIPPED)]
        if unknown:
            raise UnsupportedArtifact(
                f"{self.where}: tensor {min(unknown)} has no place in {self.arch.layers} layers of {self.arch.name}",
                hint="convert it with the tools of its publisher",
            )
        if "output.weight" in sources and self.config.get("tie_word_embeddings"):
            self.notes.append("lm_head.weight was left out: the configuration ties it to the embedding.")
            del sources["output.weight"]
        return sources

    def _tensor(self, role: str, shape: tuple[int, ...]) -> SafetensorsTensor:
        if role not in self._names:
            raise BadArtifact(f"{self.where}: {role} is missing", hint="the folder is not the whole model")
        tensor = self.model.tensors[self._names[role]]
        if tensor.shape != shape:
            raise BadArtifact(
                f"{self.where}: tensor {tensor.name} is {tensor.dtype} of shape {list(tensor.shape)}, "
                f"config.json says {list(shape)}",
                hint="the folder mixes two models; fetch it again",
            )
        return tensor

    def _floats(self, role: str, shape: tuple[int, ...]) -> SafetensorsTensor:
        tensor = self._tensor(role, shape)
        if tensor.dtype not in floats.BYTES:
            raise BadArtifact(f"{self.where}: tensor {tensor.name} is {tensor.dtype}; F32, F16 or BF16 is needed")
        return tensor

    def _norm(self, role: str, size: int) -> Piece:
        tensor = self._floats(role, (size,))
        table = Table(self.model.raw(tensor.name), 1, size, tensor.dtype)
        where = f"{self.where}: tensor {role}"
        return Piece(TensorInfo(role, (size,), BY_NAME["F32"]), lambda: write_table(table, "F32", self.changes, where))

    def _table(self, role: str, rows: int, cols: int) -> Piece:
        tensor = self._floats(role, (rows, cols))
        raw = self.model.raw(tensor.name)
        return self.table(role, (cols, rows), raw, tensor.dtype, f"{self.where}: tensor {role}")

    def _matrix(self, role: str, rows: int, cols: int) -> Piece:
        where = f"{self.where}: tensor {role}"
        self.target.check(rows, cols, where)
        name = self._names.get(role, "")
        is_packed = name in self.model.tensors and self.model.tensors[name].dtype == "U8"
        tensor = self._tensor(role, (rows // 4 if is_packed else rows, cols))
        if not is_packed:
            self._floats(role, (rows, cols))
        scale = f"{name}_scale"
        if is_packed != (scale in self.model.tensors):
            raise BadArtifact(
                f"{self.where}: tensor {name} is {tensor.dtype} {'without' if is_packed else 'with'} a weight_scale",
                hint="packed weights have one, floating-point weights have none; fetch the folder again",
            )
        if is_packed and self._class not in ("autobitlinear", "bitlinear"):
            raise UnsupportedArtifact(
                f"{self.where}: linear_class {reprlib.repr(self._class)} is unknown, so what weight_scale means is too",
                hint="autobitlinear and bitlinear are known",
            )
        return Piece(TensorInfo(role, (cols, rows), self.target.type), lambda: self._ternary(role, tensor, where))

    def _ternary(self, role: str, tensor: SafetensorsTensor, where: str) -> bytes:
        raw, cols = self.model.raw(tensor.name), tensor.shape[1]
        if tensor.dtype == "U8":
            scale = self.model.tensors[f"{tensor.name}_scale"]
            if scale.dtype not in floats.BYTES or scale.n_bytes != floats.BYTES[scale.dtype]:
                raise BadArtifact(f"{self.where}: {scale.name} is {scale.dtype} {list(scale.shape)}, no single number")
            value = floats.decode(self.model.raw(scale.name), 1, scale.dtype)[0]
            matrix = packed.decode(
                raw, 4 * tensor.shape[0], cols, weight_scale=float(value), linear_class=self._class, where=where
            )
        else:
            values = master.checked(raw, tensor.shape[0], cols, dtype=tensor.dtype, where=where)
            exact = master.exact(values)
            matrix = exact or master.quantize(values, trained=self.trained, where=where)
            self.changes.quantized += exact is None
        heads = {"attn_q": self.arch.heads, "attn_k": self.arch.kv_heads}.get(role.split(".")[-2])
        if heads is not None and self.arch.name == "llama":
            matrix = _neighbours(matrix, heads)
        return write_ternary(self.target, matrix, self.changes, where)


def rope_factors(arch: Architecture) -> Floats:
    """What `rope_freqs.weight` divides each frequency by: Llama 3.1's stretching, see `edgellm.formats.rope`."""
    kept = llama3_kept(frequencies(arch.rope_dim, arch.rope_theta), arch.rope_scaling)
    return np.asarray(1 / ((1 - kept) / arch.rope_scaling.factor + kept), np.float32)


def _neighbours(ternary: Ternary, heads: int) -> Ternary:
    """Rows of each head from halves (i, i + half) to neighbours (2i, 2i + 1), as llama.cpp's converter orders them."""

    def order(rows: Codes | Floats) -> Any:
        return np.ascontiguousarray(
            rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)
        )

    scales = order(ternary.scales) if ternary.group else ternary.scales
    return replace(ternary, codes=order(ternary.codes), scales=scales)


def _architecture(config: Mapping[str, Any], where: str) -> Architecture:
    arch = from_config(config, where)
    if arch.name not in FAMILIES:
        raise UnsupportedArtifact(
            f"{where}: {arch.name} folders are not converted", hint=f"families: {', '.join(FAMILIES)}"
        )
    return arch
