"""What only an Arm core shows. Run by run.sh with pytest, inside the arm64 root; not by `make test`."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France? Answer in one short sentence."
ANSWER = "The capital of France is Paris."  # also on x86-64
EDGELLM = str(Path(sys.executable).parent / "edgellm")


@pytest.fixture(autouse=True)
def own_home() -> None:
    """Instead of the one in conftest.py: the model is fetched once, into the home that run.sh gives."""


def edgellm(*arguments: str, cpu: str = "") -> str:
    """Standard output of the command, on the processor that `cpu` names to qemu."""
    env = os.environ | ({"QEMU_CPU": cpu} if cpu else {})
    done = subprocess.run([EDGELLM, *arguments], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_this_is_arm() -> None:
    assert platform.machine() == "aarch64"


@pytest.mark.parametrize(
    ("cpu", "model", "names"),
    [
        ("cortex-a53", "Cortex-A53", ["neon"]),
        ("cortex-a76", "Cortex-A76", ["dotprod", "fp16", "neon"]),
        ("neoverse-v1", "Neoverse-V1", ["bf16", "dotprod", "fp16", "i8mm", "neon", "sve"]),
        ("a64fx", "A64FX", ["fp16", "neon", "sve"]),
    ],
)
def test_profile_of_each_core(cpu: str, model: str, names: list[str]) -> None:
    found = json.loads(edgellm("profile", "--json", "--no-measure", cpu=cpu))["machine"]["cpu"]

    assert found["arch"] == "aarch64"
    assert found["model"].endswith(f"x {model}")
    assert found["isa"] == names


def test_doctor_finds_nothing_wrong() -> None:
    said = json.loads(edgellm("doctor", "--json"))

    assert [finding for finding in said["findings"] if finding["level"] == "problem"] == []
    assert said["used"].startswith("gguf on ")


def test_a_library_for_newer_cores_is_a_reason_and_not_a_crash() -> None:
    """Built for dotprod, run on a core without: the probe dies of the first such instruction, and nothing else does."""
    problems = [row["text"] for row in json.loads(edgellm("doctor", "--json", cpu="cortex-a53"))["findings"]]

    assert any("the library dies of SIGILL here" in text for text in problems)
    assert "no backend can run a model here" in problems


def test_the_machine_is_given_a_model_with_reasons() -> None:
    said = json.loads(edgellm("auto-select", "--json", "--min-tps", "0.1"))

    assert said["choice"]["backend"] == "gguf"
    assert said["reasons"]


def test_the_real_model_answers_as_on_x86() -> None:
    """Chosen, fetched, loaded and asked in one command. Longer texts part at near ties: kernels round differently."""
    said = edgellm("run", "--temperature", "0", "--max-tokens", "24", MODEL, QUESTION)

    assert said.strip() == ANSWER


def test_the_server_answers_survives_its_worker_and_leaves_in_order() -> None:
    """As tests/cli/test_serve.py, whose deadlines of seconds are too short here."""
    import psutil

    with subprocess.Popen([EDGELLM, "serve", MODEL, "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        with httpx.Client(base_url=url, timeout=1200) as client:
            wait_until_ready(client)
            assert ask(client) == ANSWER
            children = psutil.Process(server.pid).children()
            (worker,) = (child for child in children if "edgellm.runtime.worker" in child.cmdline())
            worker.kill()
            while worker in psutil.Process(server.pid).children():
                time.sleep(1)
            wait_until_ready(client)
            assert ask(client) == ANSWER
        server.send_signal(signal.SIGINT)
        assert server.wait(300) == 0


def wait_until_ready(client: httpx.Client) -> None:
    while client.get("/health").status_code != 200:
        time.sleep(1)


def ask(client: httpx.Client) -> str:
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    return str(
        client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]["message"]["content"]
    )
