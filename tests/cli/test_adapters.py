"""`edgellm adapters`: an adapter comes from another tool, is listed, goes to another tool, into the model, and away."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from attacks.gguf.hostile_adapters import LYING
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from support.random_lora import added, random_lora
from support.refusals import check_refusal
from support.toy_llama import native_logits, toy_weights, write_toy

from edgellm.adaptation import adapter_file, peft_export
from edgellm.adaptation.gate import accuracy_gain
from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.adaptation.peft_config import CONFIG
from edgellm.adaptation.peft_folder import WEIGHTS
from edgellm.cli.adapters import command as adapters_command
from edgellm.cli.main import cli
from edgellm.errors import BadArtifact, DiskFull, UnknownAdapter, UnknownModel, UnsupportedArtifact, UsageError
from edgellm.formats.gguf import reader
from edgellm.formats.safetensors.writer import write_safetensors
from edgellm.store.adapters import FILE, AdapterOrigin, AdapterStore
from edgellm.types.tuning_gate import Gate


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["adapters", *map(str, arguments)])
    assert (result.exception is None) == (code == 0), result.output
    return result


def answer(*arguments: str | Path) -> Any:
    return json.loads(invoke(*arguments, "--json").stdout)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy.gguf", toy_weights())


@pytest.fixture
def lora(base: Path) -> Lora:
    return random_lora(reader.read_model(base), size=0.2, alpha=16.0)


@pytest.fixture
def mail(base: Path, lora: Lora, tmp_path: Path) -> Path:
    adapter_file.write(tmp_path / "mail.gguf", lora)
    return tmp_path / "mail.gguf"


def test_an_adapter_comes_is_listed_goes_to_peft_and_back_and_away(base: Path, mail: Path, tmp_path: Path) -> None:
    assert "No adapter is here" in invoke("list").stdout
    brought = invoke("import", mail, "--base", base)
    assert "Stored toy:mail: rank 4" in brought.stdout
    assert "edgellm run toy:mail" in brought.stdout

    (row,) = answer("list")["adapters"]
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    assert (row["adapter"], row["rank"], row["alpha"], row["problem"]) == ("toy:mail", 4, 16.0, "")
    assert (row["base_quant"], row["base_sha256"]) == ("F32", sha256)
    assert row["sha256"] == hashlib.sha256(mail.read_bytes()).hexdigest()
    assert "toy:mail  rank 4" in invoke("list").stdout
    shown = answer("show", "toy:mail")
    assert (shown["architecture"], len(shown["matrices"])) == ("llama", 14)
    assert shown["matrices"][0] == {"name": "blk.0.attn_q.weight", "rank": 4, "scale": 4.0}
    assert "14 matrices: attn_k" in invoke("show", mail).stdout
    check_refusal(CliRunner().invoke(cli, ["show", "TOY:mail"]).exception, UsageError, param="model")

    invoke("export", "toy:mail", "--output", tmp_path / "peft")
    invoke("import", tmp_path / "peft", "--base", base, "--name", "again")
    written = answer("export", "toy:again", "--output", tmp_path / "again.gguf")
    assert written["bytes"] == mail.stat().st_size
    assert (tmp_path / "again.gguf").read_bytes() == mail.read_bytes()
    invoke("export", tmp_path / "peft", "--base", base, "--output", tmp_path / "half.gguf", "--type", "f16")
    assert adapter_file.load(tmp_path / "half.gguf").stored == "F16"

    assert "Removed toy:mail" in invoke("rm", "toy:mail", "toy:mail").stdout
    assert answer("rm", "toy:again")["removed"][0]["adapter"] == "toy:again"
    assert AdapterStore().installed() == []


@pytest.mark.parametrize(
    "quant", ["F32", *(pytest.param(quant, marks=pytest.mark.slow(2)) for quant in ("F16", "Q8_0"))]
)
def test_a_merged_model_computes_as_the_model_with_the_adapter(
    quant: str, base: Path, mail: Path, tmp_path: Path
) -> None:
    before = base.read_bytes()
    invoke("import", mail, "--base", base)

    merged = answer("merge", "toy:mail", "--output", tmp_path / "m.gguf", "--to", quant, "--scale", "0.5")

    assert base.read_bytes() == before
    assert (merged["quant"], merged["bytes"]) == (quant, (tmp_path / "m.gguf").stat().st_size)
    assert merged["notes"] == []
    assert not list(tmp_path.glob(".*"))
    untouched, adapted, dense = native_logits([(base, []), (base, [(mail, 0.5)]), (tmp_path / "m.gguf", [])])
    most = {"F32": 2e-5, "F16": 2e-2, "Q8_0": 0.2}[quant]
    assert np.abs(adapted - dense).max() < most < np.abs(adapted - untouched).max()


def test_dora_is_merged_and_is_no_adapter(base: Path, lora: Lora, tmp_path: Path) -> None:
    name, q = "blk.0.attn_v.weight", "base_model.model.model.layers.0.self_attn.v_proj"
    pair, lengths = lora.factors[name], np.linspace(0.5, 2, 32).astype(np.float32)
    peft_export.write(tmp_path / "dora", Lora("llama", 16.0, {name: pair}), reader.read_model(base))
    parts = {"lora_A.weight": pair.a, "lora_B.weight": pair.b, "lora_magnitude_vector": lengths}
    write_safetensors(tmp_path / "dora" / WEIGHTS, {f"{q}.{part}": values for part, values in parts.items()})
    place = tmp_path / "dora" / CONFIG
    place.write_text(json.dumps(json.loads(place.read_text()) | {"use_dora": True}))

    check_refusal(invoke("import", tmp_path / "dora", "--base", base, code=4).exception, UnsupportedArtifact)
    assert AdapterStore().installed() == []
    said = invoke("merge", tmp_path / "dora", "--base", base, "--output", tmp_path / "m.gguf", "--to", "f32").stdout
    assert f"edgellm run {tmp_path / 'm.gguf'}" in said

    tensor = next(tensor for tensor in reader.read_model(tmp_path / "m.gguf").tensors if tensor.name == name)
    file = np.memmap(tmp_path / "m.gguf", np.float32, "r", offset=tensor.offset)
    total = toy_weights()[name] + added(lora, name)
    wanted = lengths[:, None] * total / np.linalg.norm(total, axis=1, keepdims=True)
    assert np.abs(file[: wanted.size].reshape(wanted.shape) - wanted).max() < 1e-6


def test_a_quantized_model_is_merged_and_what_it_lost_is_said(base: Path, mail: Path, tmp_path: Path) -> None:
    invoke("merge", mail, "--base", base, "--output", tmp_path / "q.gguf", "--to", "Q4_0")

    said = answer("merge", mail, "--base", tmp_path / "q.gguf", "--output", tmp_path / "m.gguf", "--to", "Q8_0")

    assert [note["kind"] for note in said["notes_facts"]] == ["source_lost_before"]
    twice = invoke("merge", mail, "--base", tmp_path / "q.gguf", "--output", tmp_path / "n.gguf").stdout
    assert "stays lost" in twice


def test_what_was_measured_is_shown_in_words(mail: Path) -> None:
    gain = accuracy_gain([False] * 30 + [True] * 10, [True] * 35 + [False] * 5)
    of = {**Gate(zero_shot=gain, few_shot=gain).figures, "loss_before": 2.5, "loss_after": 0.25}
    origin = AdapterOrigin("mail", "toy", "F32", "", "/toy.gguf", figures=of)
    AdapterStore().add(origin, lambda path: shutil.copy(mail, path))
    shown = invoke("show", "toy:mail").stdout

    assert "  right answers 87.5% of 40 held out\n" in shown
    assert "  compared with its base 25.0%, its base with examples 25.0%\n" in shown
    assert "  held-out loss 2.5 before, 0.25 after; nats a token\n" in shown
    assert "_" not in shown.partition("right answers")[2].partition("architecture")[0]
    assert answer("show", "toy:mail")["figures"] == of


def refused(kind: type[Exception], *arguments: str | Path, varies: str = "", **attributes: object) -> None:
    check_refusal(invoke(*arguments, code=1).exception, kind, varies=varies, **attributes)


def test_what_cannot_be_brought_is_refused_and_nothing_is_stored(base: Path, mail: Path, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "tied.gguf", toy_weights(tied=True))
    model = reader.read_model(base)
    adapter_file.write(tmp_path / "head.gguf", random_lora(model, roles=("output",)))
    refused(UnsupportedArtifact, "import", tmp_path / "head.gguf", "--base", other)
    refused(UsageError, "import", mail, "--base", base, "--name", "q4_k_m", param="adapters")
    refused(UsageError, "import", mail, "--base", base, "--name", "a:b", param="adapters")
    refused(UnknownModel, "import", mail, "--base", "no-such-model", varies=r"`edgellm models.*")
    refused(UnknownAdapter, "import", tmp_path / "gone", "--base", base)
    refused(UnsupportedArtifact, "import", base, "--base", base)
    (tmp_path / "empty").mkdir()
    refused(BadArtifact, "import", tmp_path / "empty", "--base", base)
    assert AdapterStore().installed() == []

    invoke("import", mail, "--base", base)
    refused(UsageError, "import", mail, "--base", base, param="name")
    invoke("import", mail, "--base", base, "--force")


@pytest.mark.parametrize("name", ["pair-without-a", "rank-0", "alpha-nan", "count-of-tensors-huge", "ranks-differ"])
def test_a_hostile_file_is_not_stored(name: str, base: Path, tmp_path: Path) -> None:
    path = LYING[name].write(tmp_path / "x.gguf")

    refused(BadArtifact, "import", path, "--base", base)
    assert AdapterStore().installed() == []


def test_values_that_are_no_numbers_are_not_stored(base: Path, lora: Lora, tmp_path: Path) -> None:
    lora.factors["blk.0.attn_q.weight"].a[0, 0] = np.nan
    adapter_file.write(tmp_path / "x.gguf", lora)

    refused(BadArtifact, "import", tmp_path / "x.gguf", "--base", base)
    assert AdapterStore().installed() == []


def test_a_copy_asks_for_room_first(base: Path, mail: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    refused(DiskFull, "import", mail, "--base", base, varies=r"[0-9.]+ [kM]B|in .*, of which")
    assert AdapterStore().installed() == []


def test_a_base_that_changed_is_not_the_one_that_it_was_made_for(base: Path, mail: Path, tmp_path: Path) -> None:
    invoke("import", mail, "--base", base)
    other = write_toy(tmp_path / "other.gguf", toy_weights(seed=1))

    # Of F32 weights only: the hash says that they are others.
    refused(
        UnsupportedArtifact, "merge", "toy:mail", "--base", other, "--output", tmp_path / "m.gguf",
        varies=r"sha256 \w{16}|has \w{16}",
    )  # fmt: skip
    base.unlink()
    refused(UnknownModel, "export", "toy:mail", "--output", tmp_path / "peft", param="base")
    invoke("export", "toy:mail", "--output", tmp_path / "x.gguf")


def test_what_cannot_be_written_is_refused(base: Path, mail: Path, tmp_path: Path) -> None:
    refused(UsageError, "export", mail, "--output", mail)
    refused(UsageError, "export", mail, "--output", tmp_path / "peft", param="base")
    refused(UsageError, "export", mail, "--base", base, "--output", tmp_path / "p", "--type", "F16", param="type")
    refused(UsageError, "export", mail, "--output", tmp_path / "x.gguf", "--type", "Q4_0", param="type")
    for arguments in (("--output", base), ("--output", mail), ("--output", tmp_path / "m", "--scale", "nan")):
        refused(UsageError, "merge", mail, "--base", base, *arguments)
    refused(UsageError, "merge", mail, "--base", base, "--output", tmp_path / "m", "--to", "Q9_Z")
    refused(UnknownAdapter, "merge", "toy:gone", "--output", tmp_path / "m")
    refused(UnknownAdapter, "show", "nothing")
    refused(UnknownAdapter, "rm", "toy:gone")
    assert not list(tmp_path.glob(".*"))


def test_a_merge_that_fails_leaves_nothing(base: Path, lora: Lora, tmp_path: Path) -> None:
    huge = dataclasses.replace(lora, alpha=float(np.finfo(np.float32).max), factors=_large(lora))
    adapter_file.write(tmp_path / "huge.gguf", huge)

    refused(UnsupportedArtifact, "merge", tmp_path / "huge.gguf", "--base", base, "--output", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()
    assert not list(tmp_path.glob(".*"))


def _large(lora: Lora) -> dict[str, LoraFactors]:
    return {name: LoraFactors(np.ones_like(pair.a), 2 * np.ones_like(pair.b)) for name, pair in lora.factors.items()}


def test_who_deletes_an_adapter_as_a_model_is_told_how_to(base: Path, mail: Path) -> None:
    invoke("import", mail, "--base", base)

    check_refusal(CliRunner().invoke(cli, ["rm", "toy:mail"], standalone_mode=False).exception, UnknownModel)
    assert AdapterStore().find("toy", "mail")


def test_an_adapter_with_other_bytes_is_told(base: Path, mail: Path) -> None:
    invoke("import", mail, "--base", base)
    path = AdapterStore().find("toy", "mail").path
    path.write_bytes(path.read_bytes()[:-4] + b"worn")

    assert answer("list")["adapters"][0]["problem_facts"]["kind"] == "other_hash"
    assert "damaged" in invoke("list").stdout


def test_a_damaged_adapter_is_told_and_can_be_removed(base: Path, mail: Path, tmp_path: Path) -> None:
    invoke("import", mail, "--base", base)
    path = AdapterStore().find("toy", "mail").path
    path.write_bytes(path.read_bytes()[:-1])

    assert "damaged" in invoke("list").stdout
    assert "damaged" in invoke("show", "toy:mail").stdout
    assert answer("list")["adapters"][0]["problem_facts"]["kind"] == "other_size"
    refused(UnsupportedArtifact, "export", "toy:mail", "--output", tmp_path / "x.gguf")
    (path.parent / "adapter.json").unlink()
    assert "not readable" in invoke("list").stdout
    invoke("rm", "toy:mail")
    assert not path.parent.exists()
    assert path.name == FILE


def test_shells_complete_names_and_files(base: Path, mail: Path) -> None:
    invoke("import", mail, "--base", base)

    def offered(*words: str, incomplete: str = "") -> set[str]:
        complete = ShellComplete(cli, {}, "edgellm", "_EDGELLM_COMPLETE")
        return {item.value for item in complete.get_completions(["adapters", *words], incomplete)}

    assert offered() >= {"list", "show", "import", "export", "merge", "rm"}
    for verb in ("show", "export", "merge", "rm"):
        assert offered(verb, incomplete="to") == {"toy:mail"}
    assert "--base" in offered("import", "x", incomplete="--b")


@pytest.mark.parametrize("name", ["list", "show", "import", "export", "merge", "rm"])
def test_every_help_ends_with_examples_that_can_be_typed(name: str) -> None:
    command = adapters_command.commands[name]
    _, _, examples = (command.epilog or "").partition("Examples:\n")
    lines = [shlex.split(line) for line in examples.splitlines()]
    assert lines
    for words in lines:
        assert words[:3] == ["edgellm", "adapters", name]
        command.make_context(name, list(itertools.takewhile(lambda word: word != "|", words[3:]))).close()
    assert isinstance(command, click.Command)
