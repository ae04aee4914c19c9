"""A bundle for an Arm board, made here, becomes a service in an arm64 root without a network: by one command, emulated.

make test-wheels    makes the wheels that it needs, and runs it
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from edgellm_bitnet.models import TINY_TERNARY
from support.emulated import ENTER, PYTHON, Processor, without_a_network
from support.made_wheels import folder, made
from support.served_slot import SCRIPT

from edgellm.bundle import reader
from edgellm.cli.main import cli
from edgellm.store.library import Library
from edgellm.types.model import ModelCard, ModelFile

AARCH64 = "manylinux_2_28_aarch64"
PI, CORE = "raspberry-pi-5-8gb", "cortex-a76"
QUESTION = "What is the capital of France? Answer in one short sentence."
STORY = " lives in the bag, and a great big jungle of white caps"  # on x86-64, as tests/arm64/ternary.py has it


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exception is None, result.output
    return result.stdout


def inside(*command: str | Path) -> str:
    """Standard output of a program of the arm64 root, which sees no network."""
    done = subprocess.run(
        [*without_a_network(str(ENTER)), *map(str, command)],
        env=os.environ | {"QEMU_CPU": CORE}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed_and_asked(file: str, asked: tuple[str, ...], path: str, body: dict[str, Any], tmp_path: Path) -> Any:
    """The answer of the installed service. What is chosen with the flags `asked` for the board can be had nowhere here:
    `file` stands for it, under its name."""
    Processor("aarch64", CORE).command(tmp_path)  # makes the root, or skips
    flags = ("--for", PI, *asked)
    chosen = run("auto-select", "--profile", PI, *asked, "--json")
    choice = json.loads(chosen)["choice"]
    Library().root.mkdir(parents=True, exist_ok=True)
    copy = Path(shutil.copy(file, Library().root / "model.gguf"))
    card = ModelCard(choice["model"], "", "chat", "apache-2.0", 256, 1, 1, None)
    Library().keep(card, ModelFile(choice["source"], choice["quant"]), copy)
    bundle, root = tmp_path / "pi.edgellm", tmp_path / "opt"
    run("bundle", "create", *flags, "--wheels", folder(), "--python", PYTHON, "--glibc", "2.31", "-o", bundle)
    with reader.opened(bundle) as opened:
        files = {entry.path: b"".join(pieces) for entry, pieces in opened.files()}
    assert files[f"plans/{PI}.json"] == chosen.encode()
    assert f"golden/{PI}.json" in files

    began = time.monotonic()
    # An emulator has neither the speed nor the memory of the plan.
    options = ("--root", root, "--unsigned", "--activate", "--deadline", "1800", "--skip", "speed", "--skip", "memory")
    inside("sh", "-c", 'tar -xOf "$1" install | sh -s -- "$@"', "sh", bundle, *options)
    print(f"installed, asked and activated in {time.monotonic() - began:.0f} s")
    assert os.readlink(root / "current") == "A"
    served = inside(root / "current/venv/bin/python", "-c", SCRIPT, root / "current/run", path, json.dumps(body))
    return json.loads(served)


@pytest.mark.by_hand
@pytest.mark.slow(600)
@pytest.mark.timeout(5400)
def test_one_command_installs_the_ternary_engine_and_it_answers(tmp_path: Path) -> None:
    made("edgellm_bitnet", AARCH64)
    trained = TINY_TERNARY.files[0].source.removeprefix("file:")
    body = {"prompt": "Once upon a time there was a king who", "temperature": 0, "max_tokens": 16}
    asked = ("--backend", "bitnet", "--max-memory", "1500MiB")
    choice = installed_and_asked(trained, asked, "/v1/completions", body, tmp_path)

    assert STORY.startswith(choice["text"])
    assert len(choice["text"]) > 20


@pytest.mark.model
@pytest.mark.by_hand
@pytest.mark.slow(900)
@pytest.mark.timeout(5400)
def test_one_command_installs_llama_cpp_and_it_answers(smollm2: str, tmp_path: Path) -> None:
    made("llama_cpp_python", AARCH64)
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    choice = installed_and_asked(smollm2, ("--max-memory", "340MiB"), "/v1/chat/completions", body, tmp_path)

    assert choice["message"]["content"] == "The capital of France is Paris."
