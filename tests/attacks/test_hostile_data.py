"""Training data that somebody made to break its reader: each line is learned or named, within bounds."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from attacks.hostile_data import LYING, SOUND
from support.template_models import Bytes, template_model

from edgellm.adaptation.findings import Findings
from edgellm.adaptation.reading import read_records
from edgellm.adaptation.rendering import Renderer, encoder
from edgellm.adaptation.split import split
from edgellm.errors import UsageError
from edgellm.text.prompt import PromptBuilder
from edgellm.types.tuning_data import DataReport

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PEAK_BYTES = 128 * 1024**2


def learned(path: Path) -> DataReport:
    """
    Raises:
        UsageError: the file is refused as a whole.
    """
    findings = Findings()
    records = read_records(path, findings)
    assert findings.n_lines - findings.report.n_refused == len(records)
    parts = split(records, validation=0.1, test=0.1)
    assert len(parts.train) + len(parts.validation) + len(parts.test) + len(parts.removed) == len(records)
    info, tokenizer = template_model(CHATML, Bytes())
    renderer = Renderer(info, encoder(tokenizer), PromptBuilder(info), length=2048)
    for record in records:
        before = findings.report.n_refused
        examples = renderer.examples(record, findings)
        assert bool(examples) == (findings.report.n_refused == before)
        for example in examples:
            assert 0 < example.n_supervised < len(example) <= 2048
            assert not example.supervised[0]
    return findings.report


@pytest.mark.parametrize("suffix", SOUND)
def test_sound_data_are_learned(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"data{suffix}").write_bytes(SOUND[suffix])
    report = learned(tmp_path / f"data{suffix}")

    assert report.n_lines >= 2
    assert report.n_examples >= 2
    assert not report.n_refused


@pytest.mark.parametrize("name", LYING)
def test_lies_are_named_within_bounds(tmp_path: Path, name: str) -> None:
    suffix, raw = LYING[name]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        report = learned(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < PEAK_BYTES
    assert len(report.problems) <= 1000
    assert all(len(problem.value) <= 120 and len(problem.field) <= 120 for problem in report.problems)
    assert report.n_refused or report.n_lines <= 2


@pytest.mark.parametrize("suffix", SOUND)
def test_changed_data_are_learned_or_refused(tmp_path: Path, suffix: str) -> None:
    path, rng, ends = tmp_path / f"data{suffix}", random.Random(14), set()
    for _ in range(150):
        data = bytearray(SOUND[suffix])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] = rng.randrange(256)
            elif kind == 1:
                del data[at : at + rng.randint(1, 40)]
            elif kind == 2:
                data[at:at] = data[: rng.randint(1, 60)]
            else:
                data[at : at + 1] = rng.choice([b'"', b"{", b"]", b"\n", b"null", b"\\ud800", b"1e999", b"\0"])
        path.write_bytes(data)
        try:
            ends.add(bool(learned(path).n_refused))
        except UsageError:
            ends.add("refused")

    assert True in ends
