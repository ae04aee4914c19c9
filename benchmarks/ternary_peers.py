"""The engines that are compared: each a process, asked for one sample at a time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ternary_models


class Child:
    """`ternary_child.py` with one engine, kept alive between samples."""

    def __init__(self, engine: str, source: str | Path, threads: int, **settings: Any) -> None:
        settings |= {"source": str(source), "threads": threads}
        program = Path(__file__).with_name("ternary_child.py")
        command = [sys.executable, str(program), engine, json.dumps(settings)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about: dict[str, Any] = self._answer()

    def ask(self, call: str, **arguments: Any) -> Any:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a benchmark's child ended with status {self.process.wait()}: {self.process.args}")
        return json.loads(line)["result"]


@contextmanager
def child(engine: str, source: str | Path, threads: int, **settings: Any) -> Iterator[Child]:
    found = Child(engine, source, threads, **settings)
    try:
        yield found
    finally:
        found.close()


class BitnetCpp:
    """bitnet.cpp's own bench program, built outside of this project; a process for every sample, with its warm-up."""

    def __init__(self, program: str, source: Path) -> None:
        self.program, self.source = program, source

    def run(self, prompt: int, tokens: int, threads: int) -> float:
        """Tokens per second of `prompt` tokens of prefill, or of `tokens` tokens of decode."""
        command = [self.program, "-m", str(self.source), "-p", str(prompt), "-n", str(tokens), "-t", str(threads)]
        answer = subprocess.run(
            [*command, "-r", "1", "-o", "jsonl"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=os.environ | {"OMP_STACKSIZE": "512M"}, preexec_fn=unlimited_stack,
        )  # fmt: skip
        row = next(json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{"))
        return float(row["avg_ts"])


def unlimited_stack() -> None:
    """It keeps the results of a product on the stack: 14 MB for 512 tokens, where 8 MB are usual."""
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (most, most))


def model(folder: Path, ternary: str, head: str) -> Path:
    """The 2B-4T shape in that type, written where it is not there yet."""
    path = folder / f"2b-4t-{ternary}-{head}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"writing {path}", file=sys.stderr)
        ternary_models.write(path, "2B-4T", ternary=ternary, head=head)
    return path


def read_bytes(ternary: str, head: str) -> int:
    """What one token reads of such a file: all matrices, the tied head once."""
    shape = ternary_models.SHAPES["2B-4T"]
    return sum(tensor.n_bytes for tensor in ternary_models.tensor_list(shape, ternary, head))
