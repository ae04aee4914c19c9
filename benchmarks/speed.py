"""How far predicted speeds are from measured ones, type by type, at one thread (`make bench-speed`).

    python benchmarks/speed.py [MODEL...] [--quants Q4_K_M,Q8_0] [--save rows.json] [--load rows.json]

For each model the processor is calibrated, then every file is measured with the engine: a prompt, and tokens after it.
Machines that are shared have slow minutes, so each model has a calibration of its own, taken beside its measurements,
and what is counted is the time that the thread had a processor: what others take from it is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import shapes

from edgellm.contract.engine import Engine, SlotInput
from edgellm.estimate import speed
from edgellm.estimate.weights import Weights, weights
from edgellm.formats.gguf import reader
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact, Shape
from edgellm.types.plan import LaunchPlan, Settings

QUANTS = (
    "Q4_K_M", "Q8_0", "Q4_0", "IQ4_XS", "IQ4_NL", "Q6_K", "Q5_K_M", "Q5_0", "Q3_K_M", "Q2_K", "IQ3_S", "IQ2_XS",
    "TQ2_0", "F16",
)  # fmt: skip
PROMPT, DECODED_S = {"llama-3.2-1b": 64}, 0.5
LEAST_PROMPT = 128
PASSES = 3  # over all files of a model: each keeps its median, so that no minute of the machine makes a rank


@dataclass(frozen=True, slots=True)
class Row:
    """One file: tokens per second."""

    model: str
    quant: str
    decode: float
    prefill: float
    decode_predicted: float
    prefill_predicted: float
    decode_prior: float
    prefill_prior: float
    spread: float = 0.0  # of the passes' decode rates: highest over lowest, less 1


def measure(path: Path, prompt: int) -> tuple[float, float, int]:
    """Decode and prefill rates of one file at one thread, and the mean number of tokens cached while decoding."""
    command = [sys.executable, __file__, "--child", str(path), str(prompt)]
    answer = subprocess.run(command, capture_output=True, check=True).stdout
    decode, prefill, depth = json.loads(answer)
    return decode, prefill, depth


def _child(path: str, prompt: int) -> None:
    from edgellm_gguf.plugin import GgufBackend

    engine = GgufBackend().open(LaunchPlan("gguf", Artifact("gguf", (path,), "m"), Settings(512)))
    tokens = tuple(range(100, 100 + prompt))
    engine.step([SlotInput(0, 0, tokens[:16], 1)])
    prompts: list[float] = []
    end = time.perf_counter() + DECODED_S
    while len(prompts) < 2 or (len(prompts) < 5 and time.perf_counter() < end):
        engine.truncate(0, 0)
        prompts.append(_seconds(engine, SlotInput(0, 0, tokens, 1)))
        if prompts[0] > 3 * DECODED_S:
            break
    steps: list[float] = []
    end = time.perf_counter() + DECODED_S
    while len(steps) < 5 or (len(steps) < 64 and time.perf_counter() < end):
        steps.append(_seconds(engine, SlotInput(0, prompt + len(steps), (100,), 1)))
    engine.close()
    rates = 1 / statistics.median(steps), prompt / statistics.median(prompts)
    print(json.dumps([*rates, prompt + len(steps) // 2]))


def _seconds(engine: Engine, entry: SlotInput) -> float:
    """Of processor time: with one thread, the caller computes."""
    start = time.thread_time()
    engine.step([entry])
    return time.thread_time() - start


def rows(model: str, quants: list[str], machine: Machine, calibration: Any) -> list[Row]:
    """Every file of the model, measured and predicted."""
    found = []
    prompt = PROMPT.get(model, LEAST_PROMPT)
    taken: dict[str, list[tuple[float, float, int]]] = {quant: [] for quant in quants}
    for _ in range(PASSES):
        for quant in quants:
            taken[quant].append(measure(shapes.shape_path(model, quant), prompt))
    for quant in quants:
        path = shapes.shape_path(model, quant)
        decode, prefill, depth = (statistics.median(numbers) for numbers in zip(*taken[quant], strict=True))
        spread = max(numbers[0] for numbers in taken[quant]) / min(numbers[0] for numbers in taken[quant]) - 1
        header = reader.read_model(path)
        shape = reader.shape(header.header, header.tensors)
        known = _weights(model, shape, quant, path)
        predicted = [
            rate.tok_s
            for rates in (calibration, None)
            for rate in (
                speed.decode(machine, shape, known, 1, depth=round(depth), rates=rates),
                speed.prefill(machine, shape, known, 1, tokens=prompt, rates=rates),
            )
        ]
        row = Row(model, quant, decode, prefill, *predicted, spread)
        print(_line(row), flush=True)
        found.append(row)
    return found


def _weights(model: str, shape: Shape, quant: str, path: Path) -> Weights:
    """As selection has them; a stored file may be of another mix than its name says."""
    if model in shapes.REAL and "shapes" not in path.parts:
        read = reader.read_model(path)
        by_type: dict[str, int] = {}
        for tensor in read.tensors:
            if len(tensor.dims) > 1:
                by_type[tensor.type.name] = by_type.get(tensor.type.name, 0) + tensor.dims[0] * tensor.dims[1]
        total = sum(tensor.n_bytes for tensor in read.tensors)
        return Weights(total, total, tuple(by_type.items()), exact=True)
    return weights(shape, 0, 0, quant, imatrix=quant in shapes.NEED_IMATRIX)


def _line(row: Row) -> str:
    decode = f"{row.decode:7.1f} {row.decode_predicted:7.1f} {row.decode_predicted / row.decode:5.2f}"
    prefill = f"{row.prefill:7.0f} {row.prefill_predicted:7.0f} {row.prefill_predicted / row.prefill:5.2f}"
    priors = f"{row.decode_prior / row.decode:5.2f} {row.prefill_prior / row.prefill:5.2f}"
    return f"{row.model:13} {row.quant:8} {decode}  {prefill}  {priors}  {row.spread:4.0%}"


def report(found: list[Row]) -> None:
    """The table, and what the issue of trust is measured by."""
    columns = f"{'decode':>7} {'pred.':>7} {'ratio':>5}  {'prefill':>7} {'pred.':>7} {'ratio':>5}"
    print(f"{'model':13} {'quant':8} {columns}  priors' ratios, spread")
    for row in found:
        print(_line(row))
    for model in (*dict.fromkeys(row.model for row in found), "all"):
        part = [row for row in found if model in ("all", row.model)]
        decode = [_off(row.decode_predicted, row.decode) for row in part]
        prefill = [_off(row.prefill_predicted, row.prefill) for row in part]
        ranks = "" if model == "all" else f", rank correlation {rank_correlation(part):.2f}"
        off = f"decode off by {statistics.median(decode):.0%} median, {max(decode):.0%} worst"
        off += f"; prefill by {statistics.median(prefill):.0%} median, {max(prefill):.0%} worst"
        print(f"{model}: {len(part)} files; {off}{ranks}")


def _off(predicted: float, measured: float) -> float:
    return abs(predicted / measured - 1)


def rank_correlation(part: list[Row]) -> float:
    """Spearman's, of predicted and measured decode rates."""
    if len(part) < 2:
        return 1.0
    measured, predicted = _ranks([row.decode for row in part]), _ranks([row.decode_predicted for row in part])
    return statistics.correlation(measured, predicted)


def _ranks(values: list[float]) -> list[float]:
    ordered = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    for rank, i in enumerate(ordered):
        ranks[i] = float(rank)
    return ranks


def main() -> None:
    from edgellm.hardware.probe import probe
    from edgellm.history import calibrator

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=shapes.MODELS, metavar="MODEL")
    parser.add_argument("--quants", default=",".join(QUANTS))
    parser.add_argument("--save", type=Path, help="write the rows, to load them with others later")
    parser.add_argument("--load", type=Path, nargs="*", default=(), help="report rows of earlier runs, measure nothing")
    arguments = parser.parse_args()
    found = [Row(**row) for path in arguments.load for row in json.loads(path.read_text())]
    if not arguments.load:
        machine = probe()
        quants = arguments.quants.split(",")
        for model in arguments.models:
            for quant in quants:
                shapes.shape_path(model, quant)
            start = time.perf_counter()
            calibration = calibrator.measure("gguf", 1)
            print(f"calibrated in {time.perf_counter() - start:.1f} s: {calibration}", file=sys.stderr)
            found += rows(model, quants, machine, calibration)
    if arguments.save:
        arguments.save.write_text(json.dumps([asdict(row) for row in found], indent=0))
    report(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], int(sys.argv[3]))
    else:
        main()
