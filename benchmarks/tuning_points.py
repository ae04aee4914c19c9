"""Points for tuning_memory.py: a model that is made or given, rows, and settings, drawn at random from a seed.

No constant of the formula was found on what a new seed draws. PYTHONPATH=tests.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from bitnet import ggml
from edgellm_tune.footprint import matrices
from support.gguf_decoders import Decoder

from edgellm.adaptation import packed
from edgellm.adaptation.example import Example
from edgellm.adaptation.packed import Packed
from edgellm.adaptation.packing import pack
from edgellm.adaptation.worker import HELD_OUT, ROWS, TuneJob
from edgellm.contract.manager import plugins
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.gguf.writer import TensorInfo
from edgellm.types.model import Artifact
from edgellm.types.tuning import METHODS, TuneSettings

CHILD = Path(__file__).with_name("tuning_memory_child.py")

KINDS = ("Q4_0", "Q4_1", "Q5_1", "Q8_0", "F16", "Q4_K", "Q6_K")
_MOST_OPERATIONS = 0.15e12  # of a step, so that a point takes seconds
_DISTINCT = 64  # rows of a matrix; the others repeat them


class Made(Decoder):
    """A decoder whose matrices repeat some rows: a model of any size is written in a second."""

    def tensors(self) -> Iterator[tuple[TensorInfo, bytes]]:
        rng, blocks = np.random.default_rng(self.seed), {}
        shapes = {"token_embd": (self.vocab, self.hidden)} | (
            {} if self.tied else {"output": (self.vocab, self.hidden)}
        )
        shapes |= {
            f"blk.{layer}.{name}": shape for layer in range(self.layers) for name, shape in self.matrices().items()
        }
        for name, (rows, columns) in shapes.items():
            if columns not in blocks:
                values = rng.normal(0, columns**-0.5, (_DISTINCT, columns)).astype(np.float32)
                data = values.tobytes() if self.kind == "F32" else ggml.quantize(self.kind, values)
                blocks[columns] = np.frombuffer(data, np.uint8).reshape(_DISTINCT, -1)
            yield (
                TensorInfo(f"{name}.weight", (columns, rows), BY_NAME[self.kind]),
                np.resize(blocks[columns], (rows, blocks[columns].shape[1])).tobytes(),
            )
        vectors = {f"blk.{layer}.{name}": size for layer in range(self.layers) for name, size in self.vectors().items()}
        for name, size in {**vectors, "output_norm.weight": self.hidden}.items():
            yield TensorInfo(name, (size,), BY_NAME["F32"]), np.ones(size, np.float32).tobytes()


@dataclass(frozen=True)
class Point:
    model: Decoder | Path
    rows: Packed
    settings: TuneSettings

    def __str__(self) -> str:
        s, flags = self.settings, f"{', again' * self.settings.checkpointing}"
        flags += f"{', unpacked' * (not s.quantized)}{f', {s.n_threads} threads' * (s.n_threads > 1)}"
        return f"{self._model()}; {s.batch} x {s.length}, {s.method} r{s.rank}{flags}"

    def _model(self) -> str:
        if isinstance(self.model, Path):
            return self.model.name
        d = self.model
        return (
            f"{d.arch} {d.kind} {d.layers} x {d.hidden}/{d.ffn}, {d.heads}/{d.kv_heads} heads of {d.head_dim}, "
            f"vocabulary {d.vocab}{'' if d.tied else ' twice'}"
        )


def draw(seed: int, count: int, files: Sequence[Path] = ()) -> Iterator[Point]:
    """Each fourth is of one of `files`, in turns, where there are some."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        given = files[number // 4 % len(files)] if files and number % 4 == 3 else None
        while True:
            length = int(rng.choice([64, 96, 128, 192, 256, 384, 512, 768, 1024]))
            batch = int(rng.choice([1, 2, 4, 8]))
            if given:
                model: Decoder | Path = given
                vocab, per_token = _of_file(given)
            else:
                model = _decoder(rng)
                weights = model.layers * sum(rows * columns for rows, columns in model.matrices().values())
                vocab, per_token = model.vocab, weights + model.vocab * model.hidden / 2
                each = BY_NAME[model.kind].block_elems
                if any(columns % each for _, columns in model.matrices().values()):
                    continue
            if length * batch >= 128 and 8 * length * batch * per_token < _MOST_OPERATIONS * (4 if given else 1):
                break
        method = METHODS[rng.integers(len(METHODS))]
        settings = TuneSettings(
            method=method, rank=int(rng.choice([4, 8, 16, 32, 64])), length=length, batch=batch,
            checkpointing=bool(rng.random() < 0.5), quantized=bool(rng.random() < 0.6) and method != "full",
            max_steps=2, epochs=9, n_threads=int(rng.choice([1, 2])),
        )  # fmt: skip
        yield Point(model, _rows(rng, settings, vocab), settings)


def _of_file(path: Path) -> tuple[int, float]:
    """(its vocabulary, weights that a token meets, of the head half as often)."""
    config = read_decoder(read_model(path))
    weights = config.n_layer * sum(rows * columns for rows, columns in matrices(config))
    return config.vocab, weights + config.vocab * config.hidden / 2


def _decoder(rng: np.random.Generator) -> Decoder:
    def among(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    arch, kind = among("llama", "qwen2", "qwen3", "gemma3"), among(*KINDS)
    unit = max(64, BY_NAME[kind].block_elems)
    hidden = unit * int(rng.integers(256 // unit, 1280 // unit + 1))
    kv_heads = among(1, 2, 4)
    head_dim = 256 if arch == "gemma3" else among(64, 128)
    heads = kv_heads * among(*((1, 2) if arch == "gemma3" else (2, 3, 4)))
    if arch == "qwen2":  # its heads are as wide as the model
        head_dim, heads, kv_heads = 64, hidden // 64, math.gcd(kv_heads, hidden // 64)
    return Made(
        arch=arch, kind=kind, tied=arch == "gemma3" or rng.random() < 0.6,
        biases=("attn_q", "attn_k", "attn_v") if arch == "qwen2" else (), layers=int(rng.integers(3, 25)),
        hidden=hidden, ffn=unit * max(1, round(hidden * rng.uniform(2, 4.5) / unit)),
        heads=heads, kv_heads=kv_heads, head_dim=head_dim,
        vocab=32 * int(2 ** rng.uniform(8, 12.3)), seed=int(rng.integers(1000)),
        keys={"context_length": 4096, **({"attention.sliding_window": 512} if arch == "gemma3" else {})},
    )  # fmt: skip


def _rows(rng: np.random.Generator, settings: TuneSettings, vocab: int) -> Packed:
    """Of one document or several each."""
    share, each = rng.choice([0.1, 0.5, 1.0]), int(rng.choice([settings.length, settings.length, 40]))
    examples = []
    for _ in range(2 * settings.batch * settings.length // each):
        length = int(rng.integers(each * 3 // 4, each + 1))
        supervised = rng.random(length) < share
        supervised[0], supervised[-1] = False, True
        examples.append(Example(rng.integers(0, vocab, length).astype(np.int32), supervised))
    return pack(examples, settings.length)


def _first(rows: Packed, count: int) -> Packed:
    starts = rows.starts[: count + 1]
    return Packed(rows.tokens[: starts[-1]], rows.supervised[: starts[-1]], rows.documents[: starts[-1]], starts)


def measure(point: Point) -> tuple[int, int]:
    """(bytes predicted, bytes taken). The first is asked before anything runs."""
    with tempfile.TemporaryDirectory() as folder:
        model = point.model
        path = model if isinstance(model, Path) else model.write(Path(folder) / "model.gguf")
        base = Artifact("gguf", (str(path),), "made")
        predicted = plugins().tuners()["torch"].footprint(base, point.settings, point.rows.size).needed_bytes
        packed.write(Path(folder) / ROWS, point.rows)
        packed.write(Path(folder) / HELD_OUT, _first(point.rows, point.settings.batch))
        job = TuneJob("torch", base, "made", point.settings, folder, "here")
        command = [sys.executable, str(CHILD), msgspec.json.encode(job).decode()]
        # Threads that wait do not spin: beside other programs a point of two took 425 s, and 37 s so.
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(done.stderr)
        return predicted, json.loads(done.stdout.splitlines()[-1])["peak"]
