"""peft folders, in and out: bits that come back, scales by numpy, and what is refused by its name."""

import json
import math
import os
import re

import numpy as np
import pytest
from support.random_lora import added, random_lora, same_bits
from support.refusals import refuses
from support.tiny_models import MODELS

from edgellm.adaptation import adapter_file, peft_export, peft_folder
from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.adaptation.peft_config import CONFIG, PeftConfig
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.formats.gguf import reader
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.formats.safetensors.writer import write_safetensors

Q, K, V = (f"blk.0.attn_{end}.weight" for end in "qkv")
PREFIX = "base_model.model.model.layers.0.self_attn."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    names = ("llama-grouped", "qwen3", "phi3", "lfm2", "gemma3", "gpt-oss", "bitnet")
    return {name: reader.read_model(MODELS[name].sparse(folder)) for name in names}


@pytest.mark.parametrize("name", ["llama-grouped", "qwen3", "phi3", "lfm2", "gemma3", "bitnet"])
@pytest.mark.parametrize("stored", ["F32", "F16"])
def test_a_file_goes_through_a_folder_and_comes_back_with_all_bits(name, stored, models, tmp_path):
    model = models[name]
    lora = random_lora(model, stored=stored, ranks={"blk.0.ffn_up.weight": 2}, alpha=7.3)
    adapter_file.write(tmp_path / "there.gguf", lora)
    peft_export.write(tmp_path / "peft", adapter_file.load(tmp_path / "there.gguf"), model, base="org/model")

    back = peft_folder.load(tmp_path / "peft", model)
    adapter_file.write(tmp_path / "back.gguf", back)

    assert same_bits(adapter_file.load(tmp_path / "there.gguf"), back)
    assert (tmp_path / "there.gguf").read_bytes() == (tmp_path / "back.gguf").read_bytes()


def test_no_alpha_and_tables_come_back_too(models, tmp_path):
    model = models["llama-grouped"]
    roles = ("token_embd", "output", "attn_v")
    factors = random_lora(model, roles=roles, ranks={"output.weight": 3}).factors
    lora = Lora("llama", 0.0, factors, invocation_tokens=(3, 4))
    peft_export.write(tmp_path / "peft", lora, model)

    assert same_bits(lora, peft_folder.load(tmp_path / "peft", model))


def test_rows_of_q_and_k_are_in_the_order_of_the_hub_outside(models, tmp_path):
    """By loops, from what rope does: in the hub's order a head's second half turns with its first, here neighbours."""
    model = models["llama-grouped"]  # 8 heads of 32, 2 of them for keys
    lora = random_lora(model, roles=("attn_q", "attn_k", "attn_v"))
    peft_export.write(tmp_path / "peft", lora, model)
    written = read_safetensors(tmp_path / "peft" / peft_folder.WEIGHTS)

    for name, heads in ((Q, 8), (K, 2)):
        b = lora.factors[name].b
        hub = np.frombuffer(written.raw(f"{PREFIX}{name[11]}_proj.lora_B.weight"), np.float32).reshape(b.shape)
        for head in range(heads):
            for i in range(16):
                assert np.array_equal(hub[head * 32 + i], b[head * 32 + 2 * i])
                assert np.array_equal(hub[head * 32 + 16 + i], b[head * 32 + 2 * i + 1])
    same = np.frombuffer(written.raw(f"{PREFIX}v_proj.lora_B.weight"), np.float32)
    assert same.tobytes() == lora.factors[V].b.tobytes()


def folder_of(path, model, *, lora=None, more=None, **config):
    """A folder with changed keys, and more tensors."""
    lora = lora or random_lora(model, roles=("attn_q", "attn_v"))
    peft_export.write(path, lora, model)
    place = path / CONFIG
    place.write_text(json.dumps(json.loads(place.read_text()) | config))
    if more:
        content = read_safetensors(path / peft_folder.WEIGHTS)
        arrays = {
            name: np.frombuffer(content.raw(name), np.float32).reshape(tensor.shape)
            for name, tensor in content.tensors.items()
        } | more
        write_safetensors(path / peft_folder.WEIGHTS, {n: v for n, v in arrays.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("config", "scale_q", "scale_v"),
    [
        ({"lora_alpha": 16}, 4.0, 4.0),
        ({"lora_alpha": 16, "use_rslora": True}, 8.0, 8.0),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 4}}, 1.0, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {"q_proj": 4}, "use_rslora": True}, 2.0, 8.0),
        ({"lora_alpha": 16, "alpha_pattern": {"model.layers.0.self_attn.v_proj": 4}}, 4.0, 1.0),
        ({"lora_alpha": 16, "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 4, "v_proj": 8}}, 4.0, 1.0),
        ({"lora_alpha": 16, "alpha_pattern": {r"^model.layers.[0-3].+.q_proj$": 4}}, 1.0, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {"[o-r-z]_proj": 4}}, 1.0, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {"proj": 4}}, 4.0, 4.0),
        ({"lora_alpha": 0}, 0.0, 0.0),
        ({"lora_alpha": 4}, 1.0, 1.0),
    ],
)
def test_scales_are_those_of_the_configuration(config, scale_q, scale_v, models, tmp_path):
    model = models["llama-grouped"]
    lora = random_lora(model, roles=("attn_q", "attn_v"))
    adapter_file.write(
        tmp_path / "x.gguf", peft_folder.load(folder_of(tmp_path / "x", model, lora=lora, **config), model)
    )
    read = adapter_file.load(tmp_path / "x.gguf")

    for name, scale in ((Q, scale_q), (V, scale_v)):
        pair = lora.factors[name]
        wanted = scale * (pair.b.astype(np.float64) @ pair.a.astype(np.float64))
        assert np.abs(added(read, name) - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max())


def test_vera_is_folded(models, tmp_path):
    model = models["llama-grouped"]
    rng = np.random.default_rng(0)
    shared = {"base_model.vera_A": rng.normal(0, 1, (8, 512)), "base_model.vera_B": rng.normal(0, 1, (512, 8))}
    ends = {"vera_lambda_d": rng.normal(0, 1, 8), "vera_lambda_b": rng.normal(0, 1, 256)}
    arrays = shared | {f"{PREFIX}q_proj.{end}": values for end, values in ends.items()}
    (tmp_path / "x").mkdir()
    write_safetensors(tmp_path / "x" / peft_folder.WEIGHTS, {n: v.astype(np.float32) for n, v in arrays.items()})
    (tmp_path / "x" / CONFIG).write_text(json.dumps({"peft_type": "VERA", "r": 8}))

    lora = peft_folder.load(tmp_path / "x", model)

    a, b = (values.astype(np.float32).astype(np.float64) for values in shared.values())
    d, rows = (values.astype(np.float32).astype(np.float64) for values in ends.values())
    hub = np.diag(rows) @ b[:256] @ np.diag(d) @ a[:, :256]
    to_file = np.arange(256).reshape(8, 2, 16).swapaxes(1, 2).ravel()
    assert np.abs(added(lora, Q) - hub[to_file]).max() < 1e-5 * np.abs(hub).max()
    assert (lora.alpha, lora.factors[Q].rank) == (8.0, 8)


def test_dora_and_whole_matrices_are_read_for_a_merge_and_are_no_adapter(models, tmp_path):
    model = models["llama-grouped"]
    lengths = np.arange(1, 257, dtype=np.float32)
    only_q = Lora("llama", 8.0, {Q: random_lora(model, roles=("attn_q",)).factors[Q]})
    more = {f"{PREFIX}q_proj.lora_magnitude_vector": lengths}
    dora = peft_folder.load(folder_of(tmp_path / "x", model, lora=only_q, more=more, use_dora=True), model)
    head = np.ones((64, 256), np.float32)
    whole = peft_folder.load(folder_of(tmp_path / "y", model, more={"base_model.model.lm_head.weight": head}), model)

    assert list(dora.lengths[Q][:4]) == [1.0, 17.0, 2.0, 18.0]  # rows of a head are in turns
    assert np.array_equal(whole.replaced["output.weight"], head)
    for lora in (dora, whole):
        with refuses(UnsupportedArtifact):
            lora.require_adapter("x")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LOHA"},
        {"use_qalora": True},
        {"fan_in_fan_out": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["x"]},
        {"trainable_token_indices": [3]},
        {"init_lora_weights": "pissa_niter_4"},
        {"alpha_pattern": {"(a+)+": 4}},
        {"alpha_pattern": {".*.*.*q_proj": 4}},
        {"alpha_pattern": {"[a--b]": 4}},
        {"alpha_pattern": {"[aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]" * 8: 4}},
        {"alpha_pattern": {f".+.+..{place}Z": 4 for place in range(3000)}},
    ],
    ids=lambda config: str(*config),
)
def test_an_option_that_no_file_can_say_is_refused(config, models, tmp_path):
    model = models["llama-grouped"]

    with refuses(UnsupportedArtifact):
        peft_folder.load(folder_of(tmp_path / "x", model, **config), model)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (f"{PREFIX}q_proj.lora_C.weight", np.ones((4, 4), np.float32)),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", np.ones((4, 256), np.float32)),
        ("base_model.model.model.layers.0.input_layernorm.weight", np.ones(256, np.float32)),
        ("base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight", np.ones((4, 256), np.float32)),
        ("base_model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight", np.ones((4, 256), np.float32)),
        (f"{PREFIX}v_proj.lora_A.weight", np.ones((4, 256), np.int32)),
        (f"{PREFIX}v_proj.lora_A.weight", np.ones((4, 256, 1), np.float32)),
    ],
    ids=["part", "prefix", "norm", "layer", "tower", "whole-numbers", "three-dimensions"],
)
def test_a_tensor_that_has_no_place_is_refused(name, values, models, tmp_path):
    model = models["llama-grouped"]

    with refuses(UnsupportedArtifact):
        peft_folder.load(folder_of(tmp_path / "x", model, more={name: values}), model)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (f"{PREFIX}v_proj.lora_B.weight", None),
        (f"{PREFIX}v_proj.lora_A.weight", np.ones((4, 96), np.float32)),
        (f"{PREFIX}v_proj.lora_B.weight", np.ones((96, 4), np.float32)),
        (f"{PREFIX}v_proj.lora_B.weight", np.ones((64, 5), np.float32)),
        (f"{PREFIX}v_proj.lora_A.weight", np.full((4, 256), np.nan, np.float32)),
        ("base_model.model.lm_head.weight", np.ones((64, 255), np.float32)),
        (PREFIX.replace("layers.0", "layers.00") + "v_proj.weight", np.ones((64, 256), np.float32)),
    ],
    ids=["missing", "width", "height", "ranks", "nan", "whole", "twice"],
)
def test_a_part_that_is_missing_or_of_another_shape_is_refused(name, values, models, tmp_path):
    model = models["llama-grouped"]

    with refuses(BadArtifact):
        peft_folder.load(folder_of(tmp_path / "x", model, more={name: values}), model)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"peft_type": 3}', '{"peft_type": "LORA", "r": 0}', '{"peft_type": "LORA", "lora_alpha": 1e999}',
     '{"peft_type": "LORA", "alpha_pattern": {"q": "x"}}', '{"peft_type": "LORA", "alpha_pattern": {"[z-a]": 1}}',
     "[" * 10_000, " " * 2_000_000],
    ids=["empty", "list", "cut", "type", "rank-0", "infinite", "pattern", "backwards", "nested", "long"],
)  # fmt: skip
def test_a_configuration_that_is_malformed_is_refused(text, models, tmp_path):
    model = models["llama-grouped"]
    folder_of(tmp_path / "x", model)
    (tmp_path / "x" / CONFIG).write_text(text)

    with refuses(BadArtifact):
        peft_folder.load(tmp_path / "x", model)


@pytest.mark.parametrize("name", ["embed_tokens.weight", "embed_tokens.base_layer.weight"])
def test_the_bases_own_table_that_peft_writes_along_changes_nothing(name, models, tmp_path):
    model = models["llama-grouped"]
    lora = random_lora(model, roles=("token_embd",))
    more = {f"base_model.model.model.{name}": np.ones((64, 256), np.float32)}

    read = peft_folder.load(folder_of(tmp_path / "x", model, lora=lora, more=more), model)

    assert same_bits(lora, read)
    assert read.replaced == {}


@pytest.mark.parametrize("name", ["self_attn.q_proj.lora_A.weight", "self_attn.q_proj.weight", "vera_A"])
def test_shapes_are_compared_before_values_are_read(name, models, tmp_path):
    """A hole of two terabytes, which memory has no room for."""
    is_vera, n = name == "vera_A", 10**12
    shapes = {"base_model.vera_A" if is_vera else f"base_model.model.model.layers.0.{name}": [1, n]}
    if is_vera:
        shapes |= {"base_model.vera_B": [256, 1], f"{PREFIX}q_proj.vera_lambda_d": [1]}
        shapes |= {f"{PREFIX}q_proj.vera_lambda_b": [256]}
    elif name.endswith("lora_A.weight"):
        shapes[f"{PREFIX}q_proj.lora_B.weight"] = [256, 1]
    header, end = {}, 0
    for one, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[one] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "VERA" if is_vera else "LORA", "r": 1}))
    (tmp_path / peft_folder.WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(tmp_path / peft_folder.WEIGHTS, 8 + len(text) + end)

    with refuses(UnsupportedArtifact if is_vera else BadArtifact):
        peft_folder.load(tmp_path, models["llama-grouped"])


@pytest.mark.parametrize("config", [{"lora_alpha": 1e30}, {"lora_alpha": 16, "alpha_pattern": {"q_proj": 1e-30}}])
def test_factors_that_a_scale_makes_infinite_are_refused_without_a_warning(config, models, tmp_path):
    model = models["llama-grouped"]
    large = {name: np.full(pair.b.shape, 3e38, np.float32) for name, pair in random_lora(model).factors.items()}
    lora = random_lora(model, roles=("attn_q", "attn_v"))
    factors = {name: LoraFactors(pair.a, large[name]) for name, pair in lora.factors.items()}
    folder_of(tmp_path / "x", model, lora=Lora(lora.architecture, lora.alpha, factors), **config)
    if "alpha_pattern" not in config:
        place = tmp_path / "x" / CONFIG
        place.write_text(json.dumps(json.loads(place.read_text()) | {"alpha_pattern": {"q_proj": 1e-30}}))

    with refuses(BadArtifact):
        peft_folder.load(tmp_path / "x", model)


def test_a_pickle_is_not_opened(models, tmp_path):
    folder_of(tmp_path / "x", models["llama-grouped"])
    (tmp_path / "x" / peft_folder.WEIGHTS).rename(tmp_path / "x" / peft_folder.PICKLED)

    with refuses(UnsupportedArtifact):
        peft_folder.load(tmp_path / "x", models["llama-grouped"])


def test_what_is_no_folder_of_peft_is_refused(models, tmp_path):
    with refuses(BadArtifact):
        peft_folder.load(tmp_path, models["llama-grouped"])


def test_factors_of_no_rank_are_refused(models, tmp_path):
    model = models["llama-grouped"]
    ends = {"A": np.ones((0, 256), np.float32), "B": np.ones((64, 0), np.float32)}
    more = {f"{PREFIX}v_proj.lora_{end}.weight": values for end, values in ends.items()}

    with refuses(BadArtifact):
        peft_folder.load(folder_of(tmp_path / "x", model, more=more), model)


@pytest.mark.parametrize(
    ("part", "shape"),
    [("vera_A", (8, 255)), ("vera_B", (255, 8)), ("vera_lambda_d", (8, 1)), ("vera_lambda_b", (256, 1))],
)
def test_parts_of_vera_that_do_not_multiply_are_refused(part, shape, models, tmp_path):
    shapes = {"vera_A": (8, 512), "vera_B": (512, 8), "vera_lambda_d": (8,), "vera_lambda_b": (256,)} | {part: shape}
    arrays = {
        f"{PREFIX}q_proj.{name}" if "lambda" in name else f"base_model.{name}": np.ones(size, np.float32)
        for name, size in shapes.items()
    }
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "VERA", "r": 8}))
    write_safetensors(tmp_path / peft_folder.WEIGHTS, arrays)

    with refuses(BadArtifact):
        peft_folder.load(tmp_path, models["llama-grouped"])


@pytest.mark.parametrize(("rank", "most"), [(4097, 1 << 40), (4096, 1)])
def test_vera_that_would_fill_the_memory_is_refused_before_it_is_folded(rank, most, models, tmp_path, monkeypatch):
    monkeypatch.setattr(peft_folder, "MOST_FOLDED_BYTES", most)
    monkeypatch.setattr(peft_folder.folds, "vera", lambda *_: pytest.fail("folded"))
    shared = {"base_model.vera_A": (rank, 256), "base_model.vera_B": (256, rank)}
    modules = [PREFIX.replace("0", str(layer)) + name for layer in (0, 1) for name in ("q_proj", "o_proj")]
    ends = {f"{name}.vera_lambda_{end}": (size,) for name in modules for end, size in (("d", rank), ("b", 256))}
    arrays = {name: np.ones(shape, np.float32) for name, shape in (shared | ends).items()}
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "VERA", "r": rank}))
    write_safetensors(tmp_path / peft_folder.WEIGHTS, arrays)

    assert models["llama-grouped"].tensor_bytes < 4 * 4 * 4096 * 512
    with refuses(UnsupportedArtifact):
        peft_folder.load(tmp_path, models["llama-grouped"])


def test_vera_without_its_random_matrices_is_refused(models, tmp_path):
    with refuses(UnsupportedArtifact):
        model = models["llama-grouped"]
        peft_folder.load(folder_of(tmp_path / "x", model, peft_type="VERA"), model)


def test_an_output_that_is_the_embedding_cannot_be_adapted_alone(models, tmp_path):
    more = {f"base_model.model.lm_head.lora_{end}.weight": np.ones((4, 4), np.float32) for end in "AB"}

    with refuses(UnsupportedArtifact):
        peft_folder.load(folder_of(tmp_path / "x", models["qwen3"], more=more), models["qwen3"])


def test_architectures_whose_matrices_are_not_taken_over_one_by_one_are_refused(models, tmp_path):
    model = models["gpt-oss"]
    with refuses(UnsupportedArtifact):
        peft_folder.load(tmp_path, model)
    with refuses(UnsupportedArtifact):
        peft_export.write(tmp_path / "y", random_lora(model, roles=("attn_q",)), model)


def test_a_folder_that_is_there_is_not_written_over(models, tmp_path):
    (tmp_path / "x").mkdir()
    lora = random_lora(models["qwen3"], roles=("attn_q",))

    with refuses(UsageError, param="output"):
        peft_export.write(tmp_path / "x", lora, models["qwen3"])


def test_targets_are_named_in_full_where_not_every_layer_is_adapted(models, tmp_path):
    model = models["llama-grouped"]
    lora = random_lora(model, roles=("attn_q", "attn_v"))
    some = Lora("llama", 8.0, {name: pair for name, pair in lora.factors.items() if name != V})
    for name, content in (("all", lora), ("some", some)):
        peft_export.write(tmp_path / name, content, model)
    said = {name: json.loads((tmp_path / name / CONFIG).read_text())["target_modules"] for name in ("all", "some")}

    assert said["all"] == ["q_proj", "v_proj"]
    assert "model.layers.0.self_attn.q_proj" in said["some"]
    assert "model.layers.0.self_attn.v_proj" not in said["some"]
    assert len(said["some"]) == len(some.factors)


def test_heads_that_do_not_divide_the_rows_are_refused(models, tmp_path):
    model = models["llama-grouped"]
    header = model.header
    broken = type(model)(model.paths, _with(header, "llama.attention.head_count", 3), model.parts)

    with refuses(BadArtifact):
        peft_export.write(tmp_path / "x", random_lora(model, roles=("attn_q",)), broken)


def _with(header, key, value):
    import dataclasses

    return dataclasses.replace(header, metadata={**header.metadata, key: value})


def test_factors_of_nothing_are_refused(models, tmp_path):
    folder_of(tmp_path / "x", models["llama-grouped"])
    write_safetensors(tmp_path / "x" / peft_folder.WEIGHTS, {})

    with refuses(BadArtifact):
        peft_folder.load(tmp_path / "x", models["llama-grouped"])


def test_factors_of_experts_have_no_module_outside(models, tmp_path):
    model = models["llama-grouped"]
    pair = LoraFactors(np.ones((2, 4, 256), np.float32), np.ones((2, 64, 4), np.float32))

    with refuses(UnsupportedArtifact):
        peft_export.write(tmp_path / "x", Lora("llama", 8.0, {Q: pair}), model)


def test_a_pattern_is_compiled_once_for_all_modules(monkeypatch):
    patterns = {f"layers.{layer}.once": 4.0 for layer in range(600)}  # more than the library keeps itself
    compiled, compile_ = [], re.compile
    monkeypatch.setattr(re, "compile", lambda pattern: compiled.append(pattern) or compile_(pattern))
    config = PeftConfig("LORA", alpha_pattern=patterns)
    assert [config.scale(f"model.layers.{layer}.once", 2) for layer in (599, 600, 599)] == [2.0, 4.0, 2.0]
    assert len(compiled) == len(patterns)
