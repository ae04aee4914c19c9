"""Models that come with this package, as catalog rows: nothing is fetched for them."""

from __future__ import annotations

from pathlib import Path

from edgellm.types.model import ModelCard, ModelFile, Shape

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
            source=f"file:{Path(__file__).parent / 'tiny-ternary.gguf'}", quant="I2_S", bytes=1840672,
            sha256="af924d733ad7f1df2f22db7f923b8d85a29d3d892ab16e4371b496c822142fb8", tensor_bytes=1775936,
            trust="this package",
        ),
    ),
    native_quant="I2_S",
    notes="trained on children's stories in the public domain; it continues a story, and knows nothing else",
    source="plugins/edgellm-bitnet/training",
    trust="high",
)  # fmt: skip
