"""A GGUF decoder as transformers has it, and peft's adapters on it with a trainer's factors: the oracles of tuning.

Values of norms and rotations are computed in the model's own precision: transformers' are float32 in any model, which
would hide differences below 1e-7 in a model of float64.
"""

from __future__ import annotations

import gguf
import numpy as np
import torch
from peft import LoraConfig, VeraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from edgellm.formats import rope
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.gguf.reader import read_model

MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


class Norm(torch.nn.Module):
    def __init__(self, of):
        super().__init__()
        self.weight, self.eps = of.weight, of.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Rotary(torch.nn.Module):
    def __init__(self, decoder):
        super().__init__()
        tables = rope.tables(512, decoder.head_dim, decoder.rope_base, decoder.rope_scaling)
        self.cosines, self.sines = (torch.from_numpy(np.concatenate([table, table], axis=1)) for table in tables)

    def forward(self, x, position_ids):
        return self.cosines[position_ids].to(x.dtype), self.sines[position_ids].to(x.dtype)


class Twin:
    """A llama file as `model`; `hub_name` and `rows` lead from its tensors to the hub's."""

    def __init__(self, path, dtype, *, as_published=False):
        """`as_published`: with transformers' own norms and rotations."""
        self.decoder = decoder = read_decoder(read_model(path))
        config = LlamaConfig(
            vocab_size=decoder.vocab, hidden_size=decoder.hidden, intermediate_size=decoder.ffn,
            num_hidden_layers=decoder.n_layer, num_attention_heads=decoder.heads, head_dim=decoder.head_dim,
            num_key_value_heads=decoder.kv_heads, rms_norm_eps=decoder.eps, tie_word_embeddings=decoder.tied,
            rope_theta=decoder.rope_base, attn_implementation="sdpa",
        )  # fmt: skip
        self.model = LlamaForCausalLM(config).to(dtype)
        state = self.model.state_dict()
        for tensor in gguf.GGUFReader(path).tensors:
            values = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
            state[self.hub_name(tensor.name)].copy_(values[self.rows(tensor.name)])
        if decoder.tied:
            self.model.tie_weights()
        if as_published:
            return
        inner = self.model.model
        inner.rotary_emb, inner.norm = Rotary(decoder), Norm(inner.norm)
        for layer in inner.layers:
            layer.input_layernorm = Norm(layer.input_layernorm)
            layer.post_attention_layernorm = Norm(layer.post_attention_layernorm)

    def hub_name(self, name):
        if not name.startswith("blk."):
            ends = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
            return f"{ends[name.removesuffix('.weight')]}.weight"
        _, layer, part, _ = name.split(".")
        return f"model.layers.{layer}.{MODULES[part]}.weight"

    def rows(self, name):
        """Of the file's tensor, in the hub's order: neighbours that rotate become halves."""
        heads = {"attn_q": self.decoder.heads, "attn_k": self.decoder.kv_heads}.get(name.split(".")[-2])
        if heads is None:
            return slice(None)
        half = self.decoder.head_dim // 2
        return torch.arange(heads * half * 2).view(heads, half, 2).transpose(1, 2).reshape(-1)

    def adapted(self, trainer):
        """peft's model with the factors that the trainer has."""
        settings = trainer.settings
        targets = [module.split(".")[1] for name, module in MODULES.items() if not name.endswith("norm")]
        if settings.method == "vera":
            config = VeraConfig(r=settings.rank, target_modules=targets)
        else:
            config = LoraConfig(
                r=settings.rank, lora_alpha=settings.alpha, target_modules=targets,
                use_rslora=settings.method == "rslora", use_dora=settings.method == "dora",
            )  # fmt: skip
        model = get_peft_model(self.model, config, autocast_adapter_dtype=False)
        inside = dict(model.named_parameters()) | dict(model.named_buffers())
        with torch.no_grad():
            for name, values in trainer.factors().items():
                self._place(inside, name).copy_(torch.from_numpy(np.array(values))[self._rows_of(name)])
        return model

    def _rows_of(self, name):
        base, _, end = name.rpartition(".")
        return self.rows(base) if end in ("lora_b", "vera_b", "dora_m") and base else slice(None)

    def _place(self, inside, name):
        base, _, end = name.rpartition(".")
        if not base:
            # All modules share them; they are listed once.
            ends = {"vera_a": ".vera_A.default", "vera_b": ".vera_B.default"}[end]
            return next(values for place, values in inside.items() if place.endswith(ends))
        module = "base_model.model." + self.hub_name(base).removesuffix(".weight")
        ends = {
            "lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight", "vera_d": "vera_lambda_d.default",
            "vera_b": "vera_lambda_b.default", "dora_m": "lora_magnitude_vector.default.weight",
        }  # fmt: skip
        return inside[f"{module}.{ends[end]}"]


def losses(model, optimizer, batches):
    """A bare loop: the mean loss of the supervised tokens before each step. A row is one document."""
    made = []
    for batch in batches:
        total, count = 0.0, int(batch.supervised.sum())
        for row in range(len(batch.tokens)):
            length = int((batch.documents[row] > 0).sum())
            ids = torch.from_numpy(batch.tokens[row : row + 1, :length].astype(np.int64))
            labels = torch.where(torch.from_numpy(batch.supervised[row : row + 1, :length]), ids, -100)
            logits = model(input_ids=ids).logits
            part = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum") / count
            part.backward()
            total += part.item()
        optimizer.step()
        optimizer.zero_grad()
        made.append(total)
    return made
