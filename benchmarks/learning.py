"""What one run is worth: errors of predictions before and after it, over quantizations of four models.

    python benchmarks/learning.py [--seconds 80]     measures until the time is up; again goes on where it stopped
    python benchmarks/learning.py --report           the tables of what was measured, as Markdown

Each model is loaded in each quantization and once more right after, through `edgellm bench`'s own measuring, with one
thread; where other programs had the processors meanwhile, both loads are made again another time. The history that the
loads write is the one that is learned from; it lies beside the files of `shapes.py`, not in the user's data, and starts
from the calibration that this machine has. Predictions are made anew for the report, so that they are those of the code
and the calibration as they are.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from edgellm import settings

if TYPE_CHECKING:
    from edgellm.history.run_log import Run
    from edgellm.selection.backend_facts import BackendFacts
    from edgellm.types.machine import Machine

SHAPE_QUANTS = (
    "Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K", "Q8_0", "IQ2_XS", "IQ3_S", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
# Of the real models the rows are no multiples of 256: codebook types would fall back to IQ4_NL.
REAL_QUANTS = (
    "Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K", "Q8_0", "F16", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
MODELS = {
    "smollm2-135m": REAL_QUANTS, "gemma-3-270m": REAL_QUANTS, "qwen3-0.6b": SHAPE_QUANTS, "llama-3.2-1b": SHAPE_QUANTS,
}  # fmt: skip
# Models take turns, so that a part of the cells is a part of each.
CELLS = tuple((model, quants[at]) for at in range(13) for model, quants in MODELS.items() if at < len(quants))
PROMPT, GEN = 512, 32  # a whole batch, so that memory is at its peak
SOON = timedelta(minutes=2)
MOST_LOADS = 8  # of one cell, on a machine that is never quiet
NUMBERS = {"decode": "decode", "prompts": "prefill", "memory": "resident"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop starting loads after so long")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    arguments = parser.parse_args()
    files = settings.current().cache_dir
    home = files / "learning"
    if arguments.again:
        shutil.rmtree(home, ignore_errors=True)
    paths = _files()
    _own_history(files, home)
    if arguments.report:
        report(paths)
        return
    left = measure(paths, time.monotonic() + arguments.seconds)
    print(f"{left} cells left" if left else "all measured: --report shows it")


def _files() -> dict[tuple[str, str], Path]:
    import shapes

    return {cell: shapes.shape_path(*cell) for cell in CELLS}


def _own_history(files: Path, home: Path) -> None:
    """A home of its own, with what is measured of this machine and its builds."""
    os.environ["EDGELLM_HOME"] = str(home)
    settings.current().cache_dir.mkdir(parents=True, exist_ok=True)
    for entry in files.iterdir():
        if entry.name.startswith("bandwidth-") or entry.name in ("gguf-probe", "calibration"):
            copy: Callable[..., object] = shutil.copytree if entry.is_dir() else shutil.copy
            copy(
                entry, settings.current().cache_dir / entry.name, **({"dirs_exist_ok": True} if entry.is_dir() else {})
            )


def measure(paths: dict[tuple[str, str], Path], deadline: float) -> int:
    """Load what was not loaded often enough; how many cells are left."""
    from edgellm.app import launch
    from edgellm.hardware.probe import probe
    from edgellm.history import run_log
    from edgellm.sdk import bench
    from edgellm.types.request import SelectionRequest

    machine = probe(measure=False)
    runs = run_log.read(machine).runs
    todo = [c for c in CELLS if _pair(own := _of(runs, c)) is None and len(own) < MOST_LOADS]
    wanted = bench.BenchOptions(prompts=(PROMPT,), gen=GEN, threads=(1,), repeats=1)
    while todo and time.monotonic() < deadline:
        model, quant = todo.pop(0)
        plan = launch.model_plan(str(paths[model, quant]), SelectionRequest(ctx=wanted.ctx), threads=1)
        plan = replace(plan, artifact=replace(plan.artifact, model_id=model, quant=quant))
        both = [bench.measure(plan, wanted).runs[0] for _ in range(2)]
        print(model, quant, *(f"{run.measured.decode:.1f} {run.waited or 0:.0%}" for run in both), flush=True)
    return len(todo)


def _of(runs: Sequence[Run], cell: tuple[str, str]) -> list[Run]:
    return [run for run in runs if (run.model, run.quant) == cell]


def _pair(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """The last two loads that were made one after the other with the processors to themselves."""
    from edgellm.history import run_log

    quiet = [(a, b) for a, b in itertools.pairwise(runs) if not run_log.is_busy(a) and not run_log.is_busy(b)]
    quiet = [(a, b) for a, b in quiet if datetime.fromisoformat(b.time) - datetime.fromisoformat(a.time) < SOON]
    return quiet[-1] if quiet else None


def report(paths: dict[tuple[str, str], Path]) -> None:
    from edgellm.app import verify
    from edgellm.hardware.probe import probe
    from edgellm.history import run_log

    machine = probe(measure=False)
    runs = run_log.read(machine).runs
    facts = verify.facts_of("gguf", machine)
    pairs: list[tuple[Run, Run]] = []
    for cell in CELLS:
        pair = _pair(_of(runs, cell))
        if pair is not None:
            first, second = (_anew(run, paths[cell], machine, facts) for run in pair)
            pairs.append((first, second))
    firsts = tuple(first for first, _ in pairs)
    busy = sum(map(run_log.is_busy, runs))
    print(f"{len(runs)} loads, {busy} of them beside other programs: not learned from")
    known = "calibrated" if facts.calibration else "priors"
    print(f"{machine.name}; {len(pairs)} of {len(CELLS)} combinations; {known}\n")
    print("| median error of the second run's prediction | " + " | ".join(NUMBERS) + " |")
    print("|---|" + "---|" * len(NUMBERS))
    _row("before", pairs, lambda first: ())
    _row("after one run of the same", pairs, lambda first: (first,))
    _row("after one run of each, its own too", pairs, lambda first: firsts)
    _row("after one run of each other, never itself", pairs, lambda first: [run for run in firsts if run != first])
    print(
        "| one run against the other | " + " | ".join(_show(_repeat(pairs, name)) for name in NUMBERS.values()) + " |"
    )
    for model in MODELS:
        own = [pair for pair in pairs if pair[0].model == model]
        if own:
            _row(f"{model} ({len(own)}), before", own, lambda first: ())
            _row(f"{model}, after one run of the same", own, lambda first: (first,))


def _anew(run: Run, path: Path, machine: Machine, facts: BackendFacts) -> Run:
    """The run beside what is predicted of it now."""
    import msgspec

    from edgellm.app import verify
    from edgellm.app.file_plan import with_own_footprint
    from edgellm.catalog.identify import identify
    from edgellm.runtime.metrics import MeasuredRates
    from edgellm.types.plan import LaunchPlan, Settings

    run_with = Settings(run.ctx, run.slots, run.threads, run.threads, run.kv_type)
    # Whether the file is mapped or read, as the load had it.
    plan = with_own_footprint(LaunchPlan(run.backend, identify(str(path)), run_with))
    predicted = verify.predicted(plan, machine, MeasuredRates(decode_depth=run.depth, prefill_tokens=PROMPT), facts)
    # Each load read PROMPT tokens, give or take a word.
    return msgspec.structs.replace(run, predicted=predicted, basis="now", whole_batch=True)


def _row(name: str, pairs: Sequence[tuple], before: Callable[..., Iterable]) -> None:
    cells = [_show(_errors(pairs, before, number)) for number in NUMBERS.values()]
    print(f"| {name} | " + " | ".join(cells) + " |")


def _errors(pairs: Sequence[tuple], before: Callable[..., Iterable], name: str) -> list[float]:
    from edgellm.history import run_log

    found = []
    for first, second in pairs:
        known = run_log.of_runs(tuple(before(first))).of(second.backend, second.model, second.quant)
        ratio = run_log.quotients(second)["resident_bytes" if name == "resident" else name]
        if ratio is not None:
            found.append(abs(ratio / getattr(known, name) - 1))
    return found


def _repeat(pairs: Sequence[tuple], name: str) -> list[float]:
    field = "resident_bytes" if name == "resident" else name
    both = [(getattr(a.measured, field), getattr(b.measured, field)) for a, b in pairs]
    return [abs(b / a - 1) for a, b in both if a and b]


def _show(errors: Sequence[float]) -> str:
    return f"{median(errors):.1%} (worst {max(errors):.0%})" if errors else "-"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
