"""What a file says of sampling is read by its keys, checked, and told by name where it cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import gguf_writer as w
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats import sampling_keys
from edgellm.formats.gguf.summary import summary_of
from edgellm.types.sampling import Sampling
from edgellm.types.sampling_defaults import FileSampling, UnusedKey

TYPES = {int: w.INT32, float: w.FLOAT32, str: w.STRING, bool: w.BOOL}


def in_gguf(tmp_path: Path, **keys: Any) -> FileSampling:
    """As it is read from a file that has these keys below `general.sampling`."""
    model = w.model()
    model.keys += [(f"general.sampling.{key}", TYPES[type(value)], value) for key, value in keys.items()]
    return summary_of(model.write(tmp_path / "model.gguf")).sampling


def in_folder(tmp_path: Path, **keys: Any) -> FileSampling:
    (tmp_path / "generation_config.json").write_text(json.dumps(keys), "utf-8")
    return sampling_keys.of_folder(tmp_path)


def test_the_keys_of_a_gguf_file(tmp_path: Path) -> None:
    said = in_gguf(
        tmp_path, temp=0.6, top_k=20, top_p=0.95, min_p=0.0, penalty_last_n=128, penalty_repeat=1.05, mirostat=0,
        mirostat_tau=5.0, mirostat_eta=0.1, xtc_probability=0.0, xtc_threshold=0.1,
    )  # fmt: skip

    # As they were written, not as float32 holds them.
    assert said == FileSampling(
        Sampling(temperature=0.6, top_k=20, top_p=0.95, min_p=0.0, penalty_last_n=128, repetition_penalty=1.05)
    )


def test_the_keys_of_a_folder(tmp_path: Path) -> None:
    said = in_folder(
        tmp_path, do_sample=True, temperature=0.7, top_k=20, top_p=0.8, min_p=None, typical_p=0.9,
        repetition_penalty=1.05, eos_token_id=[1, 2], num_beams=1, max_length=2048,
    )  # fmt: skip

    assert said == FileSampling(Sampling(temperature=0.7, top_k=20, top_p=0.8, typical_p=0.9, repetition_penalty=1.05))


@pytest.mark.parametrize("keys", [{"do_sample": False}, {"do_sample": False, "temperature": 0.6}])
def test_a_folder_that_does_not_sample_is_greedy(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert in_folder(tmp_path, **keys) == FileSampling(Sampling(temperature=0))


def test_a_file_and_a_folder_that_say_nothing(tmp_path: Path) -> None:
    assert in_gguf(tmp_path) == FileSampling()
    assert sampling_keys.of_folder(tmp_path) == FileSampling()
    assert in_folder(tmp_path, do_sample=True, eos_token_id=2) == FileSampling()


def test_minus_one_tokens_are_all(tmp_path: Path) -> None:
    assert in_gguf(tmp_path, top_k=-1).values == in_folder(tmp_path, top_k=-1).values == Sampling(top_k=0)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"temp": -1.0}, "-1.0"),
        ({"temp": "hot"}, '"hot"'),
        ({"temp": True}, "true"),
        ({"top_k": -7}, "-7"),
        ({"top_k": 20.5}, "20.5"),
        ({"top_p": 0.0}, "0.0"),
        ({"top_p": 1.5}, "1.5"),
        ({"min_p": -0.5}, "-0.5"),
        ({"penalty_last_n": -2}, "-2"),
        ({"penalty_repeat": 0.0}, "0.0"),
        ({"penalty_repeat": 1e30}, "1.0000000150474662e+30"),
    ],
)
def test_a_value_out_of_range_is_not_used_and_told(tmp_path: Path, keys: dict[str, Any], value: str) -> None:
    said = in_gguf(tmp_path, **keys)
    (unused,) = said.unused

    assert said.values == Sampling()
    assert (unused.key, unused.value) == (f"general.sampling.{next(iter(keys))}", value)
    assert unused.allowed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_used(value: float) -> None:
    """The reader of headers refuses such a file whole."""
    assert sampling_keys.of_gguf({"general.sampling.temp": value}).values == Sampling()


@pytest.mark.parametrize("value", [-1, 1e999, 10**400, [1], {}, "0.5", False])
def test_a_value_of_a_folder_is_checked_too(tmp_path: Path, value: Any) -> None:
    said = in_folder(tmp_path, temperature=value, top_p=0.5)

    assert said.values == Sampling(top_p=0.5)
    assert [(unused.key, bool(unused.allowed)) for unused in said.unused] == [("temperature", True)]
    assert len(said.unused[0].value) <= 40


def test_what_is_not_implemented_is_named(tmp_path: Path) -> None:
    said = in_gguf(tmp_path, temp=0.5, sequence="top_k;temperature", xtc_probability=0.5, mirostat=2, novelty=3)

    assert said.values == Sampling(temperature=0.5)
    assert said.unused == (
        UnusedKey("general.sampling.sequence", '"top_k;temperature"'),
        UnusedKey("general.sampling.xtc_probability", "0.5"),
        UnusedKey("general.sampling.mirostat", "2"),
        UnusedKey("general.sampling.novelty", "3"),
    )
    assert in_folder(tmp_path, num_beams=4, do_sample="yes").unused == (
        UnusedKey("num_beams", "4"),
        UnusedKey("do_sample", '"yes"'),
    )


def test_a_thousand_strange_keys_are_not_all_told(tmp_path: Path) -> None:
    said = in_gguf(tmp_path, **{f"strange{number}": 1 for number in range(1000)})

    assert len(said.unused) == 8


@pytest.mark.parametrize(
    "content", ["[", "[]", "7", '{"a": ' + "[" * 100_000, " " * (1024**2 + 1), f'{{"a": [{"1," * 510_000}1]}}']
)
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content, "utf-8")

    with refuses(BadArtifact):
        sampling_keys.of_folder(tmp_path)
