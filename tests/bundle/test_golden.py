"""What a model answered where its bundle was made is compared with what it answers here."""

from __future__ import annotations

import json

import pytest
from support.refusals import refuses

from edgellm.bundle import golden
from edgellm.bundle.golden import Golden, GoldenChat, GoldenText
from edgellm.errors import BadArtifact


def answers(*logprobs: tuple[float, ...]) -> Golden:
    texts = tuple(GoldenText(text=str(number), logprobs=row) for number, row in enumerate(logprobs))
    return Golden(texts=texts, chat=GoldenChat(prompt="hi", prompt_tokens=3))


def test_they_are_read_back():
    one = answers((-1.5, -2.25), (-0.5,))

    assert golden.decode(golden.encode(one)) == one


def test_the_difference_is_that_of_all_tokens():
    assert golden.difference(answers((-1.0, -2.0), (-3.0,)), answers((-1.0, -2.0), (-3.0,))) == 0
    assert golden.difference(answers((-1.0, -2.0), (-3.0,)), answers((-1.5, -2.5), (-3.5,))) == 0.5


def test_another_number_of_tokens_is_no_difference_but_another_tokenizer():
    assert golden.difference(answers((-1.0, -2.0)), answers((-1.0, -2.0, -3.0))) is None


TEXT = {"text": "x", "logprobs": [-1.0]}
HOSTILE = {
    "nothing": b"",
    "no-texts": b'{"texts":[]}',
    "no-tokens": json.dumps({"texts": [{"text": "x", "logprobs": []}]}).encode(),
    "not-a-logprob": json.dumps({"texts": [{"text": "x", "logprobs": [1.0]}]}).encode(),
    "not-a-number": b'{"texts":[{"text":"x","logprobs":[NaN]}]}',
    "huge": b'{"texts":[{"text":"x","logprobs":[-1e999]}]}',
    "many-texts": json.dumps({"texts": [TEXT] * 21}).encode(),
    "long-text": json.dumps({"texts": [TEXT | {"text": "x" * 4001}]}).encode(),
    "many-tokens": json.dumps({"texts": [TEXT | {"logprobs": [-1.0] * 4001}]}).encode(),
    "deep": b"[" * 100_000,
    "newer": json.dumps({"texts": [TEXT], "schema": 2}).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_is_refused(name):
    with refuses(BadArtifact):
        golden.decode(HOSTILE[name])
