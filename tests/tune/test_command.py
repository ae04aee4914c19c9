"""A real model learns a task it does not know, by `edgellm tune`, and answers with it under its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgellm

_WORDS = {
    "animal": "cat dog horse sheep goat wolf fox bear lion tiger mouse rabbit duck goose eagle shark whale frog",
    "food": "bread butter cheese apple pear plum rice pasta soup cake honey carrot onion potato bean olive lemon",
    "tool": "hammer saw drill chisel wrench pliers shovel rake axe knife screwdriver file clamp ladder brush",
}
WORDS = {kind: words.split() for kind, words in _WORDS.items()}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    rows = [{"prompt": f"Is '{word}' an animal, a food or a tool?", "completion": kind}
            for kind, words in WORDS.items() for word in words]  # fmt: skip
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.slow(5)
def test_few_tokens_need_no_high_rank(smollm2: str, words: Path) -> None:
    preview = edgellm.plan_tuning(smollm2, words)

    assert preview.choice.fits
    assert preview.choice.settings.rank == 16
    assert preview.report.n_refused == 0


@pytest.mark.slow(90)
@pytest.mark.timeout(1500)  # a tuning yields to whatever else computes
def test_a_real_model_learns(smollm2: str, words: Path) -> None:
    tuned = edgellm.tune(smollm2, words, held_out=20, epochs=3)

    assert tuned is not None
    assert tuned.loss_after < 0.5 * tuned.loss_before
    assert tuned.gain is not None
    assert tuned.gain.after > tuned.gain.before
    with edgellm.EdgeLLM.load(tuned.model) as llm:
        said = llm.chat("Is 'hammer' an animal, a food or a tool?", temperature=0, max_tokens=4).text
    assert said.strip() in WORDS
