"""A real model learns a task it does not know, as the tutorial shows it, and answers with it under its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import block

import edgellm

_WORDS = {
    "animal": "cat dog horse sheep goat wolf fox bear lion tiger mouse rabbit duck goose eagle shark whale frog",
    "food": "bread butter cheese apple pear plum rice pasta soup cake honey carrot onion potato bean olive lemon",
    "artifact": "hammer saw drill chisel wrench pliers shovel rake axe knife screwdriver file clamp ladder brush",
}
WORDS = {kind: words.split() for kind, words in _WORDS.items()}
FILES = {"animal": "05", "food": "13", "artifact": "06"}  # WordNet's numbers of them
GLOSS = "what anybody in town would call a {}"


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """What the tutorial's program makes of a file in the form of WordNet's."""
    nouns = tmp_path / "package" / "dict" / "data.noun"
    nouns.parent.mkdir(parents=True)
    synsets = [
        f'{number:08} {FILES[kind]} n 01 {word} 0 000 | {GLOSS.format(word)}; "the {word} is not theirs"  \n'
        for kind, words in WORDS.items()
        for number, word in enumerate(words)
    ]
    nouns.write_text("".join(["  1 This software and database is provided under a licence\n", *synsets]))
    subprocess.run([sys.executable, "-c", block("tutorial/tune.md", "data.noun")], cwd=tmp_path, check=True)
    return tmp_path / "definitions.jsonl"


@pytest.mark.slow(5)
def test_few_tokens_need_no_high_rank(smollm2: str, definitions: Path) -> None:
    preview = edgellm.plan_tuning(smollm2, definitions)

    assert preview.choice.fits
    assert preview.choice.settings.rank == 16
    assert preview.report.n_refused == 0


@pytest.mark.slow(150)
@pytest.mark.timeout(1500)  # beside other programs
def test_a_real_model_learns(smollm2: str, definitions: Path) -> None:
    question = json.loads(definitions.read_text().partition("\n")[0])["prompt"]

    tuned = edgellm.tune(smollm2, definitions, held_out=20, epochs=3, threads=1, nice=0)

    assert tuned is not None
    assert tuned.loss_after < 0.5 * tuned.loss_before
    assert tuned.gain is not None
    assert tuned.gain.after > tuned.gain.before
    with edgellm.EdgeLLM.load(tuned.model) as llm:
        said = llm.chat(question, temperature=0, max_tokens=4).text
    assert said.strip() in WORDS
