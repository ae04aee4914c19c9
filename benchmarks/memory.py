"""Predicted memory against what worker and server really take, for two real models and two shapes.

    python benchmarks/memory.py [--model NAME ...] [--results FILE]

Each combination of quantization, context, slots and cache type is loaded by a server of its own (`memory_child.py`),
asked once with 600 tokens, and its peak resident set compared with the prediction of `Backend.footprint` from the
file's header, with the one from shape and quantization alone, and with two formulas that others use. `--results` keeps
what was measured in a file and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgellm_gguf.repacking import of_stock_build
from shapes import shape_path

from edgellm.catalog.identify import identify
from edgellm.catalog.lookup import catalog
from edgellm.contract.manager import plugins
from edgellm.estimate import footprint, repack, weights
from edgellm.hardware.probe import probe
from edgellm.types.machine import Machine
from edgellm.types.model import Shape
from edgellm.types.plan import Settings
from edgellm.units import MIB

CHILD = Path(__file__).with_name("memory_child.py")
CARDS = {
    "smollm2-135m": "smollm2-135m-instruct",
    "gemma-3-270m": "gemma-3-270m",
    "qwen3-0.6b": "qwen3-0.6b",
    "llama-3.2-1b": "llama-3.2-1b-instruct",
}
TOLERANCE, TOLERANCE_BYTES = 0.05, 40 * MIB


@dataclass(frozen=True, slots=True)
class Case:
    model: str
    quant: str
    ctx: int
    slots: int = 1
    kv_type: str = "f16"
    mmap: bool = True

    @property
    def settings(self) -> Settings:
        return Settings(self.ctx, self.slots, kv_type=self.kv_type, mmap=self.mmap)

    def __str__(self) -> str:
        read = "" if self.mmap else ", read"
        return f"{self.model} {self.quant}, {self.ctx:,} x {self.slots}, {self.kv_type}{read}"


def _cases(model: str, *rows: tuple[str, int, int, str]) -> tuple[Case, ...]:
    return tuple(Case(model, quant, ctx, slots, kv) for quant, ctx, slots, kv in rows)


CASES = (
    *_cases(
        "smollm2-135m",
        ("Q4_1", 512, 1, "f16"), ("Q8_0", 2048, 4, "f16"), ("Q4_0", 8192, 1, "q8_0"), ("Q4_K_M", 8192, 4, "f16"),
        ("F16", 4096, 2, "q4_0"), ("Q4_1", 32768, 1, "q8_0"), ("IQ4_NL", 16384, 2, "q4_0"),
    ),
    *_cases(
        "gemma-3-270m",
        ("Q4_K_M", 512, 1, "f16"), ("Q4_K_M", 8192, 4, "f16"), ("Q8_0", 2048, 8, "q8_0"), ("Q5_K_M", 32768, 1, "f16"),
        ("Q4_0", 32768, 4, "f16"), ("F16", 4096, 1, "q4_0"), ("Q4_K_M", 16384, 2, "q8_0"),
    ),
    *_cases(
        "qwen3-0.6b",
        ("Q4_0", 2048, 1, "f16"), ("Q4_K_M", 8192, 1, "f16"), ("Q4_K_M", 8192, 4, "q8_0"), ("Q8_0", 512, 4, "f16"),
        ("IQ3_XXS", 32768, 1, "q4_0"), ("Q6_K", 4096, 2, "f16"),
    ),
    *_cases(
        "llama-3.2-1b",
        ("Q4_0", 512, 1, "f16"), ("Q4_K_M", 8192, 2, "f16"), ("Q4_K_M", 2048, 8, "q8_0"), ("Q8_0", 32768, 1, "f16"),
        ("IQ4_XS", 16384, 1, "q8_0"), ("Q5_K_M", 4096, 4, "q4_0"),
    ),
    Case("qwen3-0.6b", "Q4_K_M", 2048, mmap=False),
    Case("llama-3.2-1b", "Q4_0", 4096, mmap=False),
)  # fmt: skip


def measure(case: Case) -> dict[str, int]:
    """Peak resident bytes of the worker and of the server."""
    command = [sys.executable, str(CHILD), str(shape_path(case.model, case.quant)), json.dumps(asdict(case.settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"worker_bytes": found["worker_bytes"], "parent_bytes": found["parent_bytes"]}


def from_header(case: Case, machine: Machine) -> int:
    backend = plugins().backend("gguf")
    if problems := backend.check(machine):
        raise SystemExit("; ".join(problems))
    found = backend.footprint(identify(str(shape_path(case.model, case.quant))), case.settings)
    assert found is not None
    return found.resident_bytes


def from_shape(case: Case, machine: Machine) -> int:
    card = catalog()[CARDS[case.model]]
    assert card.shape is not None
    size = weights.weights(card.shape, card.params, card.params_active, case.quant).total_bytes
    copies, table = repack.repacked_bytes(card.shape, case.quant, of_stock_build(machine.cpu, machine.os))
    return footprint.footprint(
        card.shape,
        size,
        case.ctx,
        case.slots,
        case.kv_type,
        repacked_bytes=copies,
        table_bytes=table,
        mmap=case.mmap,
    ).resident_bytes


def _simple_kv(shape: Shape, ctx: int, bytes_each: float) -> int:
    """Keys and values of every layer for every token, whatever the layer keeps."""
    return round(2 * shape.n_layer * shape.n_head_kv * shape.head_dim * ctx * bytes_each)


# llmfit 1.1.17 (docs/explain/memory-model.md): parameters x bytes by quantization + cache of at most 8,192 tokens
# + 0.5 GB. Where its table has no such quantization: the one next to it in bits.
_LLMFIT = {"F16": 2.0, "Q8_0": 1.05, "Q6_K": 0.80, "Q5_K_M": 0.68, "Q4_K_M": 0.58}
_LLMFIT |= dict.fromkeys(("Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS"), 0.58) | {"IQ3_XXS": 0.48}


def llmfit(case: Case, machine: Machine) -> int:
    card = catalog()[CARDS[case.model]]
    assert card.shape is not None
    return round(card.params * _LLMFIT[case.quant] + _simple_kv(card.shape, min(case.ctx, 8192), 2) + 0.5e9)


def file_and_kv(case: Case, machine: Machine) -> int:
    """Size of the file and a cache for all slots, in the type that is asked for."""
    shape = catalog()[CARDS[case.model]].shape
    assert shape is not None
    num, den = footprint.KV_TYPES[case.kv_type]
    size = shape_path(case.model, case.quant).stat().st_size
    return size + _simple_kv(shape, case.ctx * case.slots, num / den)


FORMULAS: dict[str, Callable[[Case, Machine], int]] = {
    "header": from_header,
    "shape": from_shape,
    "llmfit": llmfit,
    "file + KV": file_and_kv,
}


def within(predicted: int, measured: int) -> bool:
    return abs(predicted - measured) <= max(TOLERANCE * measured, TOLERANCE_BYTES)


def rows(cases: Sequence[Case], results: dict[str, dict[str, int]]) -> Iterator[str]:
    """A table of Markdown, in MiB, and what it comes to."""
    machine = probe()
    yield "| model | quant | context x slots | cache | worker | server | together | " + " | ".join(FORMULAS) + " |"
    yield "|" + "---|" * 4 + "--:|" * (3 + len(FORMULAS))
    pairs: dict[str, list[tuple[int, int]]] = {name: [] for name in FORMULAS}
    for case in cases:
        found = results[str(case)]
        whole = found["worker_bytes"] + found["parent_bytes"]
        said = {name: formula(case, machine) for name, formula in FORMULAS.items()}
        for name, predicted in said.items():
            pairs[name].append((predicted, whole))
        quant = case.quant + ("" if case.mmap else ", not mapped")
        numbers = [f"{n / MIB:.0f}" for n in (found["worker_bytes"], found["parent_bytes"], whole)]
        errors = [f"{n / MIB:.0f} ({(n - whole) / whole:+.1%})" for n in said.values()]
        cells = [case.model, quant, f"{case.ctx:,} x {case.slots}", case.kv_type, *numbers, *errors]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "| prediction | within 5 % or 40 MiB | median error | worst | worst, MiB |"
    yield "|---|--:|--:|--:|--:|"
    for name, found_pairs in pairs.items():
        errors_of = sorted(abs(p - m) / m for p, m in found_pairs)
        worst = max(abs(p - m) for p, m in found_pairs) / MIB
        inside = sum(within(p, m) for p, m in found_pairs)
        middle = statistics.median(errors_of)
        yield f"| {name} | {inside} of {len(found_pairs)} | {middle:.1%} | {errors_of[-1]:.0%} | {worst:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", action="append", choices=tuple(CARDS), help="only this one; may be repeated")
    parser.add_argument("--results", type=Path, help="keep measurements in this file, and go on from it")
    asked = parser.parse_args()
    cases = [case for case in CASES if asked.model is None or case.model in asked.model]
    kept: dict[str, dict[str, int]] = {}
    if asked.results is not None and asked.results.exists():
        kept = json.loads(asked.results.read_text())
    for case in cases:
        if str(case) not in kept:
            kept[str(case)] = measure(case)
            print(f"{case}: {sum(kept[str(case)].values()) / MIB:.0f} MiB", file=sys.stderr)
            if asked.results is not None:
                asked.results.write_text(json.dumps(kept, indent=1))
    print("\n".join(rows(cases, kept)))


if __name__ == "__main__":
    main()
