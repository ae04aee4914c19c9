"""The JSON that 200 commands print, recorded and compared: the proof that a change of shape changed no plan.

    python tests/support/recorded_outputs.py record FILE             what the installed code prints
    python tests/support/recorded_outputs.py compare FILE [OTHER]    a recording against this code, or another recording

`make same-outputs BASE=...` does both with another checkout's Python. Every command is about a named machine profile
and runs in this process with an empty home, so a recording does not depend on the machine that made it. Keys may be
added. A key that is gone, or has another value or place, is a difference. Sentences (SENTENCES) are compared apart.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

# Keys whose values are text for people.
SENTENCES = frozenset({
    "reasons", "reason", "basis", "problem", "problems", "hint", "message", "memory_basis",
    "bandwidth_basis", "ability", "ctx_reason", "budget_reason", "device_reason", "quality_basis", "note", "notes",
    "why", "summary", "basis_text", "description", "best_for", "text",
})  # fmt: skip
FLEETS = {
    "school": """
name = "school"
[defaults]
ctx = 4096
[[boxes]]
name = "classroom"
profile = "raspberry-pi-5-8gb"
count = 12
[[boxes]]
name = "library"
profile = "intel-n100-16gb"
slots = 2
min_tps = 6
[[boxes]]
name = "teachers"
profile = "apple-m2-16gb"
task = "code"
max_memory = "10GiB"
""",
    "edge": """
[[boxes]]
name = "kiosk"
profile = "raspberry-pi-4-2gb"
[[boxes]]
name = "gateway"
profile = "container-2cpu-2gb"
kv = "q8_0"
[[boxes]]
name = "desk"
profile = "ryzen-7-7840hs-32gb"
slots = 4
""",
    "search": """
[defaults]
task = "embed"
[[boxes]]
name = "one"
profile = "container-1cpu-700mb"
[[boxes]]
name = "two"
profile = "aws-graviton3-4vcpu-8gb"
""",
}
REQUESTS = (
    [],
    ["--task", "code"],
    ["--task", "agent", "--ctx", "32768"],
    ["--slots", "4", "--max-memory", "4GiB"],
    ["--task", "embed"],
    ["--min-tps", "10"],
    ["--kv", "q8_0", "--ctx", "8192"],
    ["--offline"],
    ["--backend", "gguf"],
    ["--gpu-layers", "all", "--backend", "gguf"],
    ["--backend", "bitnet"],
    ["--backend", "onnx"],
    ["--max-memory", "300MiB"],
)
ESTIMATED = (
    ["qwen3-4b"],
    ["qwen3.5-4b", "--quant", "Q4_K_M"],
    ["smollm2-135m-instruct"],
    ["llama-3.2-1b-instruct", "--ctx", "16384", "--kv", "q8_0"],
    ["gemma-3-270m-it", "--quant", "Q8_0", "--slots", "4"],
    ["qwen3.6-35b-a3b"],
    ["qwen3-embedding-0.6b", "--task", "embed"],
    ["phi-4", "--quant", "IQ4_XS", "--max-memory", "6GiB"],
    ["qwen3-0.6b", "--adapter", "rank=16", "--quant", "Q4_0"],
    ["bitnet-b1.58-2b-4t"],
    ["no-such-model"],
)
QUANTS = (None, "Q4_K_M", "IQ4_XS", "TQ2_0", "I2_S", "Q8_0", "Q2_K", "INT4", "F16", "nothing")


def commands(names: list[str], fleets: dict[str, str]) -> list[list[str]]:
    """200 commands, each profile in at least one."""
    made: list[list[str]] = []
    spare = cycle(names[::7] + names[3::11])
    for profile, request in zip(names, cycle(REQUESTS), strict=False):
        made.append(["auto-select", "--profile", profile, *request])
    made += [["estimate", *model, "--profile", next(spare)] for model in (*ESTIMATED, *ESTIMATED, *ESTIMATED)]
    for task in ("chat", "code", "agent", "embed", "chat", "chat"):
        made += [["models", "--fits", "--task", task, "--profile", next(spare)] for _ in range(4)]
    made += [["models"], ["models", "--task", "code"], ["models", "--task", "embed"]]
    for path in fleets.values():
        made += [["plan", "--fleet", path], ["plan", "--fleet", path, "--one-model"]]
    made += [["plan", "--fleet", path, "--one-file"] for path in list(fleets.values())[:2]]
    made += [["quants", *([name] if name else [])] for name in QUANTS]
    made += [["auto-select", "--profile", next(spare), "--ctx", str(1024 << i)] for i in range(20)]
    return [[*command, "--json"] for command in made][:200]


def record() -> dict[str, Any]:
    """Command line -> its JSON, its exit code, and what it said on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name in os.environ if name.startswith(("EDGELLM_", "HF_", "OLLAMA_"))]:
            del os.environ[name]
        os.environ.update(EDGELLM_HOME=f"{folder}/home", HF_HOME=f"{folder}/hf", OLLAMA_MODELS=f"{folder}/ollama")
        fleets = {name: f"{folder}/{name}.toml" for name in FLEETS}
        for name, text in FLEETS.items():
            Path(fleets[name]).write_text(text)
        return {" ".join(c).replace(folder, "FOLDER"): _run(c, folder) for c in commands(_profiles(), fleets)}


def _profiles() -> list[str]:
    from edgellm.hardware import profiles

    return profiles.names()


def _run(command: list[str], folder: str) -> dict[str, Any]:
    from edgellm.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(command)
        except SystemExit as end:
            code = end.code
    text = out.getvalue().replace(folder, "FOLDER")
    return {"code": code, "output": json.loads(text) if text.strip() else None, "message": err.getvalue()}


def differences(before: Any, now: Any, place: str = "") -> Iterator[tuple[bool, str]]:
    """(whether only a sentence differs, what differs). Keys that were added are no difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        order = [key for key in now if key in before]
        if order != [key for key in before if key in now]:
            yield False, f"{place}: order of keys"
        for key in before:
            here = f"{place}.{key}"
            if key not in now:
                yield False, f"{here}: gone"
            elif key in SENTENCES:
                if before[key] != now[key]:
                    yield True, f"{here}: {before[key]!r} -> {now[key]!r}"
            else:
                yield from differences(before[key], now[key], here)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (a, b) in enumerate(zip(before, now, strict=True)):
            yield from differences(a, b, f"{place}[{i}]")
    elif before != now:
        yield False, f"{place}: {before!r} -> {now!r}"[:400]


def load(path: str) -> dict[str, Any]:
    recording: dict[str, Any] = json.loads(lzma.decompress(Path(path).read_bytes()))
    return recording


def main(word: str, path: str, other: str | None = None) -> int:
    if word == "record":
        recording = record()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(lzma.compress(json.dumps(recording, sort_keys=False).encode(), preset=9))
        print(f"{len(recording)} commands")
        return 0
    before, now = load(path), load(other) if other else record()
    rows = list(differences(before, now))
    data = [text for is_sentence, text in rows if not is_sentence]
    print("\n".join(data))
    print("\n".join(text for is_sentence, text in rows if is_sentence and os.environ.get("SHOW_SENTENCES")))
    print(
        f"{len(before)} commands: {len(data)} differences, {len(rows) - len(data)} other sentences (SHOW_SENTENCES=1)"
    )
    return 1 if data else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
