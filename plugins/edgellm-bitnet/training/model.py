"""bitnet-b1.58 for training: ternary weights and int8 activations in the forward pass, float32 masters.

The numbers follow "The Era of 1-bit LLMs" (arXiv 2402.17764) and the 2B-4T report (arXiv 2504.12285).
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def hugging_face(self) -> dict[str, object]:
        """config.json as transformers' BitNetForCausalLM reads it."""
        return asdict(self) | {
            "architectures": ["BitNetForCausalLM"],
            "model_type": "bitnet",
            "hidden_act": "relu2",
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "dtype": "float32",
        }


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} and the tensor's scale mean|w|."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1), scale


class TernaryProduct(torch.autograd.Function):
    """x @ w.T with both operands quantized; the gradient goes through the rounding as if it were not there.

    In bfloat16 the operands are exact (|code| <= 128) and the sums are kept in float32 by oneDNN, so only
    the output is rounded. x: [tokens, in], weight: [out, in].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        codes, scale = ternary(weight)
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
        quantized = (x / step).round().clamp(-128, 127).to(dtype)
        codes = codes.to(dtype)
        ctx.save_for_backward(quantized, step, codes, scale)
        return (quantized @ codes.T).float() * (step * scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        quantized, step, codes, scale = ctx.saved_tensors
        dtype = quantized.dtype
        grad_x = (grad.to(dtype) @ codes).float() * scale
        grad_weight = ((grad * step).to(dtype).T @ quantized).float()
        return grad_x, grad_weight, None


class TernaryLinear(nn.Linear):
    dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        flat = TernaryProduct.apply(x.reshape(-1, x.shape[-1]), self.weight, self.dtype)
        return flat.view(*x.shape[:-1], -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE over halves (NEOX). x: [batch, heads, tokens, head_dim]."""
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Attention(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        width = c.num_key_value_heads * c.head_dim
        self.q_proj = TernaryLinear(c.hidden_size, c.hidden_size, bias=False)
        self.k_proj = TernaryLinear(c.hidden_size, width, bias=False)
        self.v_proj = TernaryLinear(c.hidden_size, width, bias=False)
        self.o_proj = TernaryLinear(c.hidden_size, c.hidden_size, bias=False)
        self.attn_sub_norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        shape = (batch, tokens, -1, self.c.head_dim)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        groups = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        dtype = self.q_proj.dtype
        mixed = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype), is_causal=True)
        mixed = mixed.float().transpose(1, 2).reshape(batch, tokens, -1)
        return self.o_proj(self.attn_sub_norm(mixed))


class Mlp(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.gate_proj = TernaryLinear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = TernaryLinear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = TernaryLinear(c.intermediate_size, c.hidden_size, bias=False)
        self.ffn_sub_norm = nn.RMSNorm(c.intermediate_size, c.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.ffn_sub_norm(F.relu(self.gate_proj(x)).square() * self.up_proj(x)))


class Layer(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = Mlp(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, c.rms_norm_eps)


class BitNet(nn.Module):
    """Parameter names are those of transformers' BitNetForCausalLM with a tied head."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.model = Backbone(c)
        frequency = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        angle = torch.outer(torch.arange(c.max_position_embeddings).float(), frequency)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.model.embed_tokens.weight, std=0.04)
        for name, module in self.named_modules():
            if isinstance(module, TernaryLinear):
                into_residual = name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(module.weight, std=0.02 if into_residual else 0.06)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, length]; hidden states after the last norm: [batch, length, hidden]."""
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def loss(self, tokens: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of tokens[:, 1:] given what stands before. tokens: [batch, length + 1]."""
        hidden = self(tokens[:, :-1]).flatten(0, 1)
        dtype = TernaryLinear.dtype
        logits = (hidden.to(dtype) @ self.model.embed_tokens.weight.to(dtype).T).float()
        return F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction=reduction)
