"""Shapes from architecture keys. Expected cache bytes are those of the published models named in each case."""

import pytest
from support import gguf_writer as w
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.header import parse_gguf


def header_of(arch, output=False, **keys):
    file = w.Gguf(w.model_keys(arch, **keys), [w.Tensor("token_embd.weight", (64, 16), w.F32, 4096)])
    if output:
        file.tensors.append(w.Tensor("output.weight", (64, 16), w.F32, 4096))
    data = file.build()
    return parse_gguf(data, file_bytes=len(data), where="made")


def heads(n_layer, n_embd, n_head, n_head_kv, head_dim=None, **keys):
    sizes = {} if head_dim is None else {"attention__key_length": head_dim, "attention__value_length": head_dim}
    return {
        "block_count": n_layer, "embedding_length": n_embd, "attention__head_count": n_head,
        "attention__head_count_kv": n_head_kv, **sizes, **keys,
    }  # fmt: skip


# name -> (architecture, keys, full bytes, windowed bytes, window, state bytes, layers with attention)
MODELS = {
    "smollm2-135m": ("llama", heads(30, 576, 9, 3), 23_040, 0, 0, 0, None),
    "llama-3.1-8b": ("llama", heads(32, 4096, 32, 8), 131_072, 0, 0, 0, None),
    "qwen3-0.6b": ("qwen3", heads(28, 1024, 16, 8, 128), 114_688, 0, 0, 0, None),
    "gemma-3-270m": ("gemma3", heads(18, 640, 4, 1, 256, attention__sliding_window=512), 3072, 15_360, 512, 0, None),
    "gemma-3-1b": ("gemma3", heads(26, 1152, 4, 1, 256, attention__sliding_window=512), 4096, 22_528, 512, 0, None),
    "gemma-3n-e2b": ("gemma3n", heads(30, 2048, 8, 2, 256, attention__sliding_window=512), 8192, 32_768, 512, 0, None),
    "gemma-4-e2b": (
        "gemma4",
        heads(
            35, 1536, 8, 1, 512, attention__key_length_swa=256, attention__value_length_swa=256,
            attention__sliding_window=512, attention__shared_kv_layers=20,
            attention__sliding_window_pattern=[layer % 5 != 4 for layer in range(35)],
        ),
        6144, 12_288, 512, 0, None,
    ),
    "gpt-oss-20b": ("gpt-oss", heads(24, 2880, 64, 8, 64, attention__sliding_window=128), 24_576, 24_576, 128, 0, None),
    "phi-3.5-mini": ("phi3", heads(32, 3072, 32, 32, attention__sliding_window=262_144), 393_216, 0, 0, 0, None),
    "qwen3.5-2b": (
        "qwen35",
        heads(24, 2048, 8, 2, 256, ssm__conv_kernel=4, ssm__inner_size=2048, ssm__state_size=128, ssm__group_count=16),
        12_288, 0, 0, 20_201_472, 6,
    ),
    "qwen3.5-9b": (
        "qwen35",
        heads(32, 4096, 16, 4, 256, ssm__conv_kernel=4, ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=16),
        32_768, 0, 0, 52_690_944, 8,
    ),
    "lfm2-350m": (
        "lfm2",
        heads(16, 1024, 16, [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0], shortconv__l_cache=3),
        12_288, 0, 0, 81_920, 6,
    ),
    "granite-4.0-h-micro": (
        "granitehybrid",
        heads(40, 2048, 32, [8 if layer in (5, 15, 25, 35) else 0 for layer in range(40)], ssm__conv_kernel=4,
              ssm__inner_size=4096, ssm__state_size=128, ssm__group_count=1),
        8192, 0, 0, 36 * 4 * (3 * (4096 + 256) + 128 * 4096), 4,
    ),
    "deepseek-v2-lite": (
        "deepseek2",
        heads(27, 2048, 16, 1, attention__kv_lora_rank=512, rope__dimension_count=64, attention__key_length=576,
              attention__value_length=512, attention__key_length_mla=192, attention__value_length_mla=128),
        27 * 2 * 576, 0, 0, 0, None,
    ),
    "draft layers": ("glm4moe", heads(47, 4096, 96, 8, 128, nextn_predict_layers=1), 188_416, 0, 0, 0, None),
}  # fmt: skip


# Layers that attend beside those with state, or that cache every token beside those with a window.
FULL = {
    "gemma-3-270m": (5, 11, 17),
    "gemma-3-1b": (5, 11, 17, 23),
    "gemma-3n-e2b": (4, 9, 14, 19, 24, 29),
    "gemma-4-e2b": (4, 9, 14, 19, 24, 29, 34),
    "gpt-oss-20b": tuple(range(1, 24, 2)),
    "qwen3.5-2b": (3, 7, 11, 15, 19, 23),
    "qwen3.5-9b": (3, 7, 11, 15, 19, 23, 27, 31),
    "lfm2-350m": (2, 5, 8, 10, 12, 14),
    "granite-4.0-h-micro": (5, 15, 25, 35),
}


@pytest.mark.parametrize("name", MODELS)
def test_cache_and_state_of_published_models(name):
    arch, keys, full, windowed, window, state, n_attn = MODELS[name]

    shape = reader.shape(header_of(arch, **keys))

    assert (shape.kv_full_bytes, shape.kv_swa_bytes, shape.sliding_window) == (full, windowed, window)
    assert (shape.recurrent_bytes, shape.n_attn) == (state, n_attn)
    assert shape.full_layers == FULL.get(name, ())


def test_plain_numbers():
    shape = reader.shape(header_of("qwen3moe", expert_count=128, expert_used_count=8, expert_feed_forward_length=768))

    assert (shape.arch, shape.n_layer, shape.n_embd, shape.n_ff, shape.n_vocab) == ("qwen3moe", 2, 64, 128, 16)
    assert (shape.n_head, shape.n_head_kv, shape.head_dim) == (4, 2, 16)
    assert (shape.n_expert, shape.n_expert_used, shape.n_ff_expert) == (128, 8, 768)


@pytest.mark.parametrize("output", [True, False])
def test_embeddings_are_tied_where_there_is_no_output_tensor(output):
    assert reader.shape(header_of("llama", output=output)).tied_embeddings is not output


def test_without_kv_heads_every_head_has_its_own():
    assert reader.shape(header_of("llama", attention__head_count_kv=None)).n_head_kv == 4


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"block_count": None}, id="no layers said"),
        pytest.param({"embedding_length": None}, id="no width said"),
        pytest.param({"block_count": 0}, id="no layers"),
        pytest.param({"block_count": 5000}, id="too many layers"),
        pytest.param({"block_count": 2, "nextn_predict_layers": 2}, id="layers for the next tokens only"),
        pytest.param({"embedding_length": 2**31}, id="a width of 2**31"),
        pytest.param({"block_count": 3, "attention__head_count_kv": [1, 2]}, id="fewer values than layers"),
    ],
)
def test_impossible_shapes_are_refused(keys):
    with refuses(BadArtifact):
        reader.shape(header_of("llama", **keys))


def test_a_file_without_architecture_has_no_shape():
    data = w.Gguf().build()
    with refuses(BadArtifact):
        reader.shape(parse_gguf(data, file_bytes=len(data), where="made"))


@pytest.mark.model
def test_real_models(smollm2, gemma3):
    small, gemma = (reader.shape(reader.read_model(path).header) for path in (smollm2, gemma3))

    assert (small.arch, small.n_layer, small.n_vocab, small.tied_embeddings) == ("llama", 30, 49_152, True)
    assert (gemma.arch, gemma.n_layer, gemma.n_vocab, gemma.head_dim) == ("gemma3", 18, 262_144, 256)
    assert (gemma.kv_full_bytes, gemma.kv_swa_bytes, gemma.sliding_window) == (3072, 15_360, 512)
