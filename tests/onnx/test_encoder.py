"""Encoders on onnxruntime against a numpy forward, and what their folders say of pooling, lengths and scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edgellm_onnx.convert_bert import convert
from edgellm_onnx.encoder import EncoderEngine
from edgellm_onnx.opening import open_engine
from edgellm_onnx.options import Options
from support.refusals import refuses
from support.tiny_bert import CLS, SEP, TinyBert

from edgellm.contract.converter import Conversion
from edgellm.contract.embedder import EmbeddingInfo
from edgellm.errors import BadArtifact, UnknownModel, UnsupportedArtifact, UsageError
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

TEXTS = ("the quick brown fox", "a", "rain fell on the harbour all night; by morning: rain!", "abc 123 dog " * 9)
CLOSE = 2e-6  # of numbers of unit vectors: float32 against float64


def plan_of(folder: Path, kind: str = "safetensors", ctx: int = 512) -> LaunchPlan:
    settings = Settings(n_ctx=ctx, n_threads=1, n_threads_batch=1, n_batch=256)
    return LaunchPlan("onnx-bert", Artifact(kind, (str(folder),), "tiny"), settings)


def engine_of(folder: Path, kind: str = "safetensors", ctx: int = 512) -> EncoderEngine:
    plan = plan_of(folder, kind, ctx)
    engine = EncoderEngine(plan, folder) if kind == "safetensors" else open_engine(plan, Options())
    assert isinstance(engine, EncoderEngine)
    return engine


def converted(folder: Path, target: Path) -> Path:
    source = Artifact("safetensors", (str(folder),), "tiny")
    return convert(Conversion(source, target, "onnx"), lambda *_: None).path


def tokens_of(engine: EncoderEngine) -> list[list[int]]:
    return [engine.tokenizer.encode(text, add_special=True, parse_special=False) for text in TEXTS]


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


class TestTinyBert(EmbedderContract):
    folder: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def written(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        TestTinyBert.folder = TinyBert().write(tmp_path_factory.mktemp("bert"))

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls, written: None) -> LaunchPlan:
        return plan_of(cls.folder)


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_vectors_are_the_oracles(tmp_path: Path, kind: str, dtype: str) -> None:
    bert = TinyBert(dtype=dtype)
    folder = bert.write(tmp_path / "bert")
    engine = engine_of(folder if kind == "safetensors" else converted(folder, tmp_path / "made"), kind)
    tokens = tokens_of(engine)
    for row, ids in zip(engine.embed(tokens), tokens, strict=True):
        np.testing.assert_allclose(row, unit(bert.hidden(ids).mean(0)), atol=CLOSE)
    assert engine.info.embedding == EmbeddingInfo("mean", True, None)
    assert (engine.info.n_ctx, engine.info.n_embd, engine.info.generates) == (128, bert.width, False)


def weighted(states: np.ndarray) -> np.ndarray:
    weights = np.arange(1, len(states) + 1)[:, None]
    return (states * weights).sum(0) / weights.sum()


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"pooling_mode_cls_token": True}, lambda s: s[0]),
        ({"pooling_mode_max_tokens": True}, lambda s: s.max(0)),
        ({"pooling_mode_mean_tokens": True}, lambda s: s.mean(0)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda s: s.sum(0) / np.sqrt(len(s))),
        ({"pooling_mode_weightedmean_tokens": True}, weighted),
        ({"pooling_mode_lasttoken": True}, lambda s: s[-1]),
        ({"pooling_mode": "lasttoken"}, lambda s: s[-1]),
        ({"pooling_mode": "cls"}, lambda s: s[0]),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            lambda s: np.concatenate([s[0], s.mean(0)]),
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_pooling_is_the_folder_s(tmp_path: Path, config: dict[str, object], wanted) -> None:
    bert = TinyBert(layers=1, pooling=config, modules=("Transformer", "Pooling"))
    engine = engine_of(bert.write(tmp_path))
    tokens = tokens_of(engine)
    rows = engine.embed(tokens)
    for row, ids in zip(rows, tokens, strict=True):
        expected = wanted(bert.hidden(ids))
        np.testing.assert_allclose(row, expected, atol=1e-5 * np.abs(expected).max())
    assert engine.info.n_embd == rows.shape[1]
    assert engine.info.embedding is not None
    assert not engine.info.embedding.normalized
    assert engine.info.details["pooling"].endswith("from 1_Pooling/config.json")


def test_what_is_assumed_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_of(TinyBert(modules=(), pooling=None).write(tmp_path))
    assert engine.info.details["pooling"] == "mean, assumed: the folder does not say"
    assert engine.info.details["normalized"] == "to unit length, assumed: the folder does not say"
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@pytest.mark.parametrize(
    ("files", "config", "longest"),
    [
        ({}, {}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": 40}}, {}, 40),
        ({"tokenizer_config.json": {"model_max_length": 50}}, {}, 50),
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, {}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": 400}}, {}, 128),
    ],
    ids=str,
)
def test_the_longest_text_is_the_shortest_that_a_file_names(tmp_path, files, config, longest) -> None:
    engine = engine_of(TinyBert(files=files, config=config).write(tmp_path))
    assert engine.info.n_ctx == longest
    assert engine_of(tmp_path, ctx=30).info.n_ctx == 30


def test_a_prompt_and_lower_case_are_the_folder_s(tmp_path: Path) -> None:
    files = {
        "config_sentence_transformers.json": {"prompts": {"query": "the: "}, "default_prompt_name": "query"},
        "sentence_bert_config.json": {"do_lower_case": True},
    }
    engine = engine_of(TinyBert(files=files).write(tmp_path))
    plain = engine_of(TinyBert().write(tmp_path / "plain"))
    asked = engine.tokenizer.encode("FOX", add_special=True, parse_special=False)
    assert asked == plain.tokenizer.encode("the: fox", add_special=True, parse_special=False)
    assert "'the: ' stands before every text" in engine.info.details["prompt"]


def test_texts_become_no_control_tokens_unless_asked(tmp_path: Path) -> None:
    engine = engine_of(TinyBert().write(tmp_path))
    text = engine.tokenizer.encode("[SEP]", add_special=True, parse_special=False)
    assert (text[0], text[-1]) == (CLS, SEP)
    assert SEP not in text[1:-1]
    assert engine.tokenizer.encode("[SEP]", add_special=False, parse_special=True) == [SEP]
    long = engine.tokenizer.encode("a " * 50, add_special=False, parse_special=False)
    assert len(long) == 50  # neither cut nor padded, as tokenizer.json would have it
    assert engine.tokenizer.encode("a\ud800", add_special=False, parse_special=False)


def test_matryoshka_is_what_the_configuration_says(tmp_path: Path) -> None:
    for config, wanted in (({"is_matryoshka": True}, ()), ({"matryoshka_dimensions": [16, 8]}, (8, 16)), ({}, None)):
        engine = engine_of(TinyBert(config=config).write(tmp_path / str(len(str(config)))))
        assert engine.info.embedding is not None
        assert engine.info.embedding.dimensions == wanted


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("config", "through"),
    [
        ({}, sigmoid),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, lambda x: x),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, lambda x: x),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, sigmoid),
    ],
    ids=["none", "old", "new", "sigmoid"],
)
@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_scores_are_the_oracles(tmp_path: Path, config, through, kind: str) -> None:
    bert = TinyBert(scores=1, config=config)
    folder = bert.write(tmp_path / "bert")
    engine = engine_of(folder if kind == "safetensors" else converted(folder, tmp_path / "made"), kind)
    pairs = [engine.pair("which dog", text) for text in TEXTS]
    assert pairs[0].tokens[pairs[0].n_first - 1] == SEP
    wanted = [through(bert.score(list(pair.tokens), pair.n_first)) for pair in pairs]
    np.testing.assert_allclose(engine.rerank(pairs), wanted, atol=1e-5)
    assert engine.info.capabilities == {"rerank"}
    assert not engine.info.generates


BROKEN = {
    "a Dense module": (lambda f: edit(f, "modules.json", lambda m: m.append({"type": "x.Dense", "path": "3_Dense"})),
                       UnsupportedArtifact),
    "a pooling folder elsewhere": (lambda f: edit(f, "modules.json", lambda m: m[1].update(path="../x")),
                                   BadArtifact),
    "no pooling": (lambda f: edit(f, "1_Pooling/config.json", lambda m: m.clear()), UnsupportedArtifact),
    "unknown pooling": (lambda f: edit(f, "1_Pooling/config.json", lambda m: m.update(pooling_mode="deep")),
                        UnsupportedArtifact),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), UnsupportedArtifact),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), BadArtifact),
    "another tokenizer": (lambda f: edit(f, "config.json", lambda m: m.update(vocab_size=20)),
                          BadArtifact),
    "another family": (lambda f: edit(f, "config.json", lambda m: m.update(model_type="t5")),
                       UnsupportedArtifact),
    "another activation": (lambda f: edit(f, "config.json", lambda m: m.update(hidden_act="relu")),
                           UnsupportedArtifact),
    "relative positions": (lambda f: edit(f, "config.json", lambda m: m.update(position_embedding_type="relative_key")),
                           UnsupportedArtifact),
    "no width": (lambda f: edit(f, "config.json", lambda m: m.update(hidden_size=0)), BadArtifact),
    "another width": (lambda f: edit(f, "config.json", lambda m: m.update(hidden_size=64)),
                      BadArtifact),
    "a missing layer": (lambda f: edit(f, "config.json", lambda m: m.update(num_hidden_layers=3)),
                        BadArtifact),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), BadArtifact),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-4]),
                    BadArtifact),
}  # fmt: skip


def edit(folder: Path, name: str, change) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = TinyBert().write(tmp_path / "bert")
    change, error = BROKEN[name]
    change(folder)
    with refuses(error, varies=r"(?<=ValueError: ).*(?=\))"):  # the words of tokenizers
        engine_of(folder)


def test_a_text_on_which_the_rules_fail_ends_its_own_request_only(tmp_path: Path) -> None:
    """The library panics, which is no `Exception`: it would end the worker."""
    folder = TinyBert().write(tmp_path / "bert")
    endless = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
    edit(folder, "tokenizer.json", lambda whole: whole.update(normalizer=endless))
    tokenizer = engine_of(folder).tokenizer
    for encode in (
        lambda text: tokenizer.encode(text, add_special=True, parse_special=False),
        lambda text: tokenizer.pair("a", text),
    ):
        with refuses(BadArtifact, varies=r"(?<=Exception: ).*(?=\))"):
            encode("x" * 46)
        assert encode("a")


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    with refuses(UnsupportedArtifact):
        engine_of(TinyBert(scores=3).write(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    bert = TinyBert()
    bert.weights["encoder.layer.0.output.dense.weight"][3, 4] = np.nan
    with refuses(BadArtifact):
        engine_of(bert.write(tmp_path))


def test_a_graph_in_a_repository_s_onnx_folder(tmp_path: Path) -> None:
    made = converted(TinyBert().write(tmp_path / "bert"), tmp_path / "made")
    (made / "onnx").mkdir()
    (made / "model.onnx").rename(made / "onnx" / "model.onnx")
    whole, inner = engine_of(made, "onnx"), engine_of(made / "onnx", "onnx")
    tokens = tokens_of(whole)
    np.testing.assert_array_equal(whole.embed(tokens), inner.embed(tokens))


def test_a_folder_without_a_graph(tmp_path: Path) -> None:
    with refuses(UnknownModel):
        engine_of(TinyBert().write(tmp_path), "onnx")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with refuses(BadArtifact):
        engine_of(tmp_path, "onnx")


@pytest.mark.parametrize("named", [False, True])
def test_the_graph_that_is_checked_is_the_one_that_runs(tmp_path: Path, named: bool) -> None:
    """Beside it lies one of another name, which nobody checked, and which cannot even be opened."""
    made = converted(TinyBert().write(tmp_path / "bert"), tmp_path / "made")
    checked = "named.bin" if named else "decoder_model_merged.onnx"
    (made / "model.onnx").rename(made / checked)
    (made / "model.onnx").write_bytes(b"no graph")
    if named:
        (made / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": checked}}}))
    assert engine_of(made, "onnx").info.n_embd == TinyBert.width


def test_what_a_folder_links_to_elsewhere_is_not_copied(tmp_path: Path) -> None:
    folder = TinyBert().write(tmp_path / "bert")
    (tmp_path / "secret").write_text("a secret")
    (folder / "special_tokens_map.json").symlink_to(tmp_path / "secret")

    with refuses(BadArtifact):
        converted(folder, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_conversion_says_and_refuses(tmp_path: Path) -> None:
    folder = TinyBert(dtype="BF16").write(tmp_path / "bert")
    source = Artifact("safetensors", (str(folder),), "tiny")
    made = convert(Conversion(source, tmp_path / "made", "onnx"), lambda *_: None)
    assert made.notes == (
        "BF16 became F32, exactly.",
        "Left out, as nothing reads it: pooler.dense.bias, pooler.dense.weight.",
    )
    assert made.bytes == sum(file.stat().st_size for file in made.path.rglob("*") if file.is_file())
    with refuses(UsageError, param="out"):
        convert(Conversion(source, tmp_path / "made", "onnx"), lambda *_: None)
    convert(Conversion(source, tmp_path / "made", "onnx", replace=True), lambda *_: None)
    with refuses(UsageError):
        convert(Conversion(source, tmp_path / "other", "onnx", bits=8), lambda *_: None)
