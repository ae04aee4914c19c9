"""Models that come with this package, as catalog rows: nothing is fetched for them."""

from __future__ import annotations

from pathlib import Path

from edgellm.model import ModelCard, ModelFile, Shape

TINY_TERNARY = ModelCard(
    id="tiny-ternary",
    family="bitnet",
    kind="base",
    license="apache-2.0",
    ctx_train=512,
    params=5_252_352,
    params_active=5_252_352,
    shape=Shape(
        arch="bitnet-b1.58", n_layer=6, n_embd=256, n_ff=768, n_head=4, n_head_kv=2, head_dim=64, n_vocab=2048,
        tied_embeddings=True, kv_full_bytes=3072,
    ),
    files=(
        ModelFile(
            source=f"file:{Path(__file__).parent / 'tiny-ternary.gguf'}", quant="I2_S", bytes=2_332_192,
            sha256="afaa769b87dbb80f8fc07d0a0eae02b6398d65c132eef1ba339ce615c7292f4a", tensor_bytes=2_267_456,
            trust="this package",
        ),
    ),
    native_quant="I2_S",
    notes="trained on children's stories in the public domain; it continues a story, and knows nothing else",
    source="plugins/edgellm-bitnet/training",
    trust="high",
)  # fmt: skip
