"""Does selection choose the quantization and the type of cache that running them all would show to be best?

    make bench-regret                         # measures what is missing, then reports
    python benchmarks/regret.py smollm2-135m --measure quality --seconds 120
    python benchmarks/regret.py smollm2-135m --report

One model in all of its quantizations (`shapes.py`), three types of cache. Measured for each: how far its answers are
from those of the F16 file (KL divergence on a text, in nats), the memory it needs, and its decode rate with 1,024
tokens cached. Then random requests (memory, floor, context): of what satisfies one as measured, the best is what keeps
most; the regret of a choice is the share of that which it lacks, all of it where it breaks the request.
Retention is exp(-KL): the share of the probability of the F16 file's tokens that is left, as a geometric mean.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from regret_child import THREADS

from edgellm import settings

CHILD = Path(__file__).with_name("regret_child.py")

MODELS = {"smollm2-135m": "smollm2-135m-instruct", "gemma-3-270m": "gemma-3-270m-it"}
# The published SmolLM2 file is Q4_1, so the F16 file is made of it and Q4_1 would have no loss by construction. Q3_K_S
# is Q2_K, as rows are short.
QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q5_0", "Q3_K_M", "Q2_K", "Q4_K_S", "Q5_1", "Q3_K_L")
KV_TYPES = ("f16", "q8_0", "q4_0")
CONTEXTS = (2048, 8192)
REQUESTS, WITHIN = 20, 0.03
PROMPT_CELLS = 768  # that the prompt of a memory measurement takes, padded
PASSES = 4  # over all files, for rates: the median counts, so that no minute of the machine makes one
# Of a measured rate and of measured memory: what is nearer to the floor or the cap counts neither as broken nor as
# reached. `--strict` takes memory to the byte.
NOISE, MEMORY_NOISE = 0.05, 0.005
SEED = 20261124


def folder(model: str) -> Path:
    path = settings.current().cache_dir / "regret" / model
    path.mkdir(parents=True, exist_ok=True)
    return path


def measure(model: str, what: str, seconds: float) -> bool:
    """Measure what is missing for at most so long; whether anything is missing still."""
    from off_grid import off_grid_path

    path = folder(model) / f"{what}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    stop = time.monotonic() + seconds
    for number, quant, kv_type, ctx in _jobs(what):
        key = f"{what} {quant} {kv_type} {ctx}"
        if len(known.get(key, ())) > number:
            continue
        if time.monotonic() > stop:
            return True
        job = {"model": model, "what": what, "path": str(off_grid_path(model, quant)), "kv_type": kv_type, "ctx": ctx}
        job["reference"] = str(folder(model) / "reference.npy")
        started = time.monotonic()
        child = subprocess.run(
            [sys.executable, str(CHILD), json.dumps(job)], capture_output=True, text=True, check=False
        )
        if child.returncode:
            raise RuntimeError(f"{key}: {child.stderr[-2000:]}")
        known.setdefault(key, []).append(json.loads(child.stdout.splitlines()[-1]))
        print(f"{key} {known[key]} {time.monotonic() - started:.1f} s", flush=True)
        path.write_text(json.dumps(known, indent=1))
    return False


def _jobs(what: str) -> Any:
    for number in range(PASSES if what == "rate" else 1):
        for kv_type in KV_TYPES:
            for quant in ("F16", *QUANTS) if what == "quality" else QUANTS:
                for ctx in CONTEXTS if what == "memory" else (2048,):
                    yield number, quant, kv_type, ctx


@dataclass(frozen=True)
class Found:
    """What was measured of one quantization with one type of cache."""

    kept: float
    needed_bytes: int  # of worker and parent
    rate: float


def found_at(known: dict[str, Any], ctx: int) -> dict[tuple[str, str], Found]:
    from edgellm.estimate.footprint import PARENT_BYTES

    return {
        (quant, kv_type): Found(
            math.exp(-known[f"quality {quant} {kv_type} 2048"]),
            known[f"memory {quant} {kv_type} {ctx}"]["needed"] + PARENT_BYTES + untouched(ctx),
            known[f"rate {quant} {kv_type} 2048"],
        )
        for quant in complete(known)
        for kv_type in KV_TYPES
    }


def untouched(ctx: int) -> int:
    """Bytes of masks that a full context touches and the measured prompt did not: 2 for each of 512 rows and cells."""
    return 2 * 512 * (ctx - PROMPT_CELLS)


def complete(known: dict[str, Any]) -> list[str]:
    """Quantizations of which everything was measured."""
    return [q for q in QUANTS if all(f"rate {q} {kv} 2048" in known for kv in KV_TYPES)]


def requests(known: dict[str, Any], seed: int = SEED) -> list[tuple[int, int, float]]:
    """(context, memory in bytes, floor in tokens per second): between the least and the most of what was measured."""
    draw = random.Random(seed)
    rates = [known[f"rate {quant} {kv_type} 2048"] for quant in complete(known) for kv_type in KV_TYPES]
    made = []
    for _ in range(REQUESTS):
        ctx = draw.choice(CONTEXTS)
        needed = [found.needed_bytes for found in found_at(known, ctx).values()]
        made.append((ctx, round(draw.uniform(min(needed), max(needed))), draw.uniform(0.3, 1.0) * max(rates)))
    return made


def choose(model: str, known: dict[str, Any], asked: tuple[int, int, float], learned: str) -> tuple[str, str] | None:
    """What selection takes, None = it says that nothing will do."""
    from off_grid import off_grid_path

    from edgellm.catalog.lookup import catalog
    from edgellm.errors import NothingFits
    from edgellm.formats.gguf.reader import read_model
    from edgellm.selection.context import SelectionContext
    from edgellm.selection.decide import decide
    from edgellm.types.model import ModelFile
    from edgellm.types.request import SelectionRequest

    files = []
    for quant in complete(known):
        path = str(off_grid_path(model, quant))
        size = sum(tensor.type.size_bytes(math.prod(tensor.dims)) for tensor in read_model(path).tensors)
        files.append(ModelFile(f"file:{path}", quant, tensor_bytes=size))
    card = replace(catalog()[MODELS[model]], files=tuple(files), repos=())
    ctx, memory, floor = asked
    request = SelectionRequest(ctx=ctx, min_tps=floor, max_memory_bytes=memory, backend="gguf")
    facts = backends()
    try:
        context = SelectionContext(
            machine(),
            tuple(facts),
            (card,),
            corrections=corrections(known, card, learned),
            divergences=divergences(known, card, learned),
        )
        decision = decide(context, request)
    except NothingFits:
        return None
    assert decision.choice is not None
    return decision.choice.quant, decision.choice.kv_type


def divergences(known: dict[str, Any], card: Any, learned: str) -> dict[tuple[str, str, str], float]:
    """What a quality check of each file with an F16 cache would have told."""
    if learned != "runs and checks":
        return {}
    return {("gguf", card.id, quant): known[f"quality {quant} f16 2048"] for quant in complete(known)}


def corrections(known: dict[str, Any], card: Any, learned: str) -> Any:
    """What one run of each file with an F16 cache and 2,048 tokens would have told."""
    from edgellm.estimate.footprint import PARENT_BYTES
    from edgellm.history.corrections import Corrections, Ratio
    from edgellm.history.corrections import corrections as learn
    from edgellm.selection.expand import expand
    from edgellm.selection.scenario import Scenario
    from edgellm.types.request import SelectionRequest

    if learned == "nothing":
        return Corrections()
    options, _ = expand(
        [card], [f for f in backends() if f.name == "gguf"], Scenario.of(machine(), SelectionRequest()), frozenset()
    )
    rows = []
    for o in options:
        needed = known[f"memory {o.quant} f16 2048"]["needed"] + PARENT_BYTES + untouched(2048)
        rate = known[f"rate {o.quant} f16 2048"]
        rows.append(Ratio("gguf", o.model, o.quant, rate / o.decode.tok_s, None, needed / o.counted_at(2048)))
    return learn(rows)


@cache
def machine() -> Any:
    from edgellm.hardware.probe import probe

    found = probe()
    return replace(found, limits=replace(found.limits, cpuset_cores=THREADS, cpuset=THREADS))


@cache
def backends() -> Any:
    from edgellm.contract.manager import plugins
    from edgellm.selection.backend_facts import backend_facts

    return backend_facts(plugins().backends().values(), machine())


STAGES = ("nothing", "runs", "runs and checks")  # what was learned before the requests


def report(model: str, seeds: int, *, strict: bool) -> None:
    known: dict[str, Any] = {}
    for what in ("quality", "memory", "rate"):
        for key, found in json.loads((folder(model) / f"{what}.json").read_text()).items():
            known[key] = statistics.median(found) if what == "rate" else found[0]
    for learned in STAGES:
        print(f"\n{model}, {len(complete(known))} quantizations, learned: {learned}")
        print("| context | memory, MiB | floor, tok/s | chosen | kept | best | kept | regret |")
        print("|---|---|---|---|---|---|---|---|")
        judged = [Judged.of(model, known, asked, learned, strict=strict) for asked in requests(known)]
        for one in judged:
            print(one.line())
        print(_summary(judged))
    if seeds > 1:
        print(f"\n| learned | {' | '.join(str(SEED + i) for i in range(seeds))} |\n|---|{'---|' * seeds}")
        for learned in STAGES:
            rows = [
                [Judged.of(model, known, asked, learned, strict=strict) for asked in requests(known, SEED + i)]
                for i in range(seeds)
            ]
            print(f"| {learned} | {' | '.join(str(sum(j.regret <= WITHIN for j in row)) for row in rows)} |")


@dataclass(frozen=True)
class Judged:
    """One request: what was chosen, and what measuring them all shows to be best."""

    asked: tuple[int, int, float]
    found: dict[tuple[str, str], Found]
    choice: tuple[str, str] | None
    best: tuple[str, str] | None
    holds: bool  # the choice keeps the request

    @classmethod
    def of(
        cls, model: str, known: dict[str, Any], asked: tuple[int, int, float], learned: str, *, strict: bool
    ) -> Judged:
        ctx, memory, floor = asked
        found, noise = found_at(known, ctx), 0.0 if strict else MEMORY_NOISE
        reach = {
            key: f
            for key, f in found.items()
            if f.needed_bytes <= memory * (1 - noise) and f.rate >= floor * (1 + NOISE)
        }
        choice = choose(model, known, asked, learned)
        best = max(reach, key=lambda key: reach[key].kept, default=None)
        holds = choice is not None and (
            found[choice].needed_bytes <= memory * (1 + noise) and found[choice].rate >= floor * (1 - NOISE)
        )
        return cls(asked, found, choice, best, holds)

    @property
    def kept(self) -> float:
        return self.found[self.choice].kept if self.choice is not None and self.holds else 0.0

    @property
    def regret(self) -> float:
        if self.best is None:
            return float(self.choice is not None and not self.holds)
        return max(0.0, 1 - self.kept / self.found[self.best].kept)

    def line(self) -> str:
        ctx, memory, floor = self.asked
        names = [" ".join(key) if key else "none" for key in (self.choice, self.best)]
        if self.choice is not None and not self.holds:
            broken = self.found[self.choice]
            names[0] += f" (breaks it: {broken.needed_bytes / 2**20:.1f} MiB, {broken.rate:.1f} tok/s)"
        shown = f"{self.found[self.best].kept:.3f}" if self.best else "-"
        cells = (ctx, f"{memory / 2**20:.0f}", f"{floor:.0f}", names[0], f"{self.kept:.3f}", names[1], shown)
        return f"| {' | '.join(map(str, cells))} | {self.regret:.1%} |"


def _summary(judged: list[Judged]) -> str:
    regrets = [one.regret for one in judged]
    held = sum(regret <= WITHIN for regret in regrets)
    return f"within 3 %: {held} of {len(regrets)}; mean {statistics.mean(regrets):.2%}, worst {max(regrets):.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--measure", choices=("quality", "memory", "rate"), help="only this, and no report")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop measuring after so many")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--seeds", type=int, default=1, help="draw the requests so often, and count")
    parser.add_argument("--strict", action="store_true", help="memory to the byte")
    asked = parser.parse_args()
    for model in asked.models:
        if not asked.report:
            for what in (asked.measure,) if asked.measure else ("quality", "memory", "rate"):
                left = measure(model, what, asked.seconds)
                print(f"{model}: {what} is {'not ' if left else ''}complete", flush=True)
        if not asked.measure:
            report(model, asked.seeds, strict=asked.strict)


if __name__ == "__main__":
    main()
