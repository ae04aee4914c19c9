"""What a grammar costs: the mask and the draw for each token, compiling a schema, and a whole answer.

    python benchmarks/grammar.py [--model FILE ...] [--rounds 5]

"draw" and "masked" are processor time of this thread for the same rows of logits, those of a real answer under a schema
of eight fields: without and with the grammar, in turn. "new" and "seen" are what a schema of 20 fields adds to the
first token: compiling it, or copying what was compiled, with the first mask. "whole answer" is the rate of decoding on
one thread, constrained and free, a token of each in turn, for a schema with long names (which are forced) and for any
object (which forces nothing). All of it is processor time of this thread, so that other work counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np

from edgellm.contract.engine import Engine, SlotInput
from edgellm.contract.manager import plugins
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.text.sampling import Sampler
from edgellm.types.grammar import ANY_OBJECT, Grammar
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.sampling import Sampling

PROMPT = "Describe a person as JSON.\n"
USUAL = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=1)


def schema(n_fields: int, name: str = "field") -> Grammar:
    kinds = (
        {"type": "string", "maxLength": 24},
        {"type": "integer", "minimum": 0, "maximum": 9999},
        {"type": "boolean"},
    )
    fields = {f"{name}_{at}": kinds[at % len(kinds)] for at in range(n_fields)}
    return Grammar.of_schema(
        {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    )


def answer(engine: Engine, compiler: GrammarCompiler, most: int = 300) -> tuple[list[np.ndarray], list[int]]:
    """Rows and tokens of an answer under the schema of eight fields."""
    matcher, sampler = compiler.matcher(schema(8)), Sampler(USUAL)
    tokens = engine.tokenizer.encode(PROMPT, add_special=True, parse_special=False)
    row = engine.step([SlotInput(0, 0, tuple(tokens), 1)])[0][-1]
    rows: list[np.ndarray] = []
    drawn: list[int] = []
    while len(drawn) < most and not matcher.complete:
        rows.append(row.copy())
        drawn.append(sampler.sample(row, matcher))
        if drawn[-1] in engine.info.eos_ids:
            break
        matcher.accept(drawn[-1])
        row = engine.step([SlotInput(0, len(tokens) + len(drawn) - 1, (drawn[-1],), 1)])[0][-1]
    return rows, drawn


def draws(
    compiler: GrammarCompiler, rows: list[np.ndarray], drawn: list[int], *, masked: bool, ahead: bool = False
) -> list[float]:
    """Microseconds of processor time for each row. `ahead`: the mask is there already, as it is in a worker, where
    another thread computes it while the engine steps."""
    matcher, sampler, times = compiler.matcher(schema(8)) if masked else None, Sampler(USUAL), []
    for row, token in zip(rows, drawn, strict=True):
        if ahead and matcher is not None and matcher.begin():
            matcher.compute()
        started = time.thread_time_ns()
        sampler.sample(row, matcher)
        if matcher is not None and not matcher.complete:
            matcher.accept(token)
        times.append((time.thread_time_ns() - started) / 1e3)
    return times


def timed(work: Callable[[], object]) -> float:
    started = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - started) / 1e6


def opened(path: str) -> Engine:
    settings = Settings(n_ctx=1024, n_slots=1, n_threads=1, n_threads_batch=1, n_batch=128)
    return plugins().backend("gguf").open(LaunchPlan("gguf", Artifact("gguf", (path,), "bench"), settings))


def cost_of_a_token(engine: Engine, compiler: GrammarCompiler, rounds: int) -> None:
    tables = timed(partial(compiler.matcher, Grammar("choice", '["a"]')))
    rows, drawn = answer(engine, compiler)
    ways = ({"masked": False}, {"masked": True}, {"masked": True, "ahead": True})
    runs = [[draws(compiler, rows, drawn, **way) for way in ways] for _ in range(rounds)]
    free, masked = (statistics.median(each for run in runs for each in run[way]) for way in (0, 1))
    added, ahead = (
        statistics.median(b - a for run in runs for a, b in zip(run[0], run[way], strict=True)) for way in (1, 2)
    )
    new = [schema(20, f"fresh_{at}") for at in range(rounds)]
    fresh, again = ([timed(partial(compiler.matcher, grammar)) for grammar in new] for _ in range(2))
    print(f"{engine.info.vocab_size:>10,} {free:>9.0f} {masked:>9.0f} {added:>9.0f} {ahead:>9.0f}", end="")
    print(f" {tables / 1e3:>9.2f} {statistics.median(fresh):>9.1f} {statistics.median(again):>9.2f}")


def cost_of_an_answer(path: str, rounds: int) -> None:
    constrained, free = Decoding(path), Decoding(path)
    compiler = GrammarCompiler(constrained.engine.tokenizer, constrained.engine.info)
    for name, grammar in (
        ("long names, forced", schema(8, "a_rather_long_name_of_a_field")),
        ("any object, nothing forced", Grammar("json_schema", ANY_OBJECT)),
    ):
        ratios, most = [], 0
        for seed in range(rounds):
            constrained.begin(seed, compiler.matcher(grammar))
            free.begin(seed)
            # In turn, so that whatever else slows the machine slows both.
            while constrained.n_tokens < 200 and constrained.step():
                while free.n_tokens < constrained.n_tokens:
                    free.step()
            ratios.append(constrained.rate / free.rate)
            most = max(most, constrained.n_tokens)
        print(f"{name:<28} {statistics.median(ratios):>6.2f}  ({min(ratios):.2f} to {max(ratios):.2f}), {most} tokens")
    constrained.engine.close()
    free.engine.close()


class Decoding:
    """An answer as the loop decodes it, a step at a time, and what its tokens took: processor time of this thread."""

    def __init__(self, path: str) -> None:
        self.engine = opened(path)
        self.prompt = self.engine.tokenizer.encode(PROMPT, add_special=True, parse_special=False)

    def begin(self, seed: int, matcher: Matcher | None = None) -> None:
        self.matcher, self.sampler = matcher, Sampler(msgspec.structs.replace(USUAL, seed=seed))
        self.engine.truncate(0, 0)
        self.row = self.engine.step([SlotInput(0, 0, tuple(self.prompt), 1)])[0][-1]
        self.n_tokens, self.ns = 0, 0

    def step(self) -> bool:
        """Whether the answer goes on: a token is drawn, those that it forces are added, and all are decoded."""
        started = time.thread_time_ns()
        tokens = [self.sampler.sample(self.row, self.matcher)]
        if self.matcher is not None:
            if tokens[0] in self.engine.info.eos_ids:
                return False
            self.matcher.accept(tokens[0])
            for token in self.matcher.forced():
                self.sampler.accept(token)
                self.matcher.accept(token)
                tokens.append(token)
            if self.matcher.complete:
                return False
        self.row = self.engine.step([SlotInput(0, len(self.prompt) + self.n_tokens, tuple(tokens), 1)])[0][-1]
        self.n_tokens += len(tokens)
        self.ns += time.thread_time_ns() - started
        return True

    @property
    def rate(self) -> float:
        return self.n_tokens / self.ns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", action="append", help="a GGUF file; by default SmolLM2-135M and Gemma 3 270M")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from edgellm.app import launch
    from edgellm.types.options import LaunchOptions

    names = options.model or ["smollm2-135m-instruct", "gemma-3-270m"]
    paths = [launch.plan(name, LaunchOptions.of(ctx=1024))[0].artifact.path for name in names]
    print("vocabulary  draw us masked us  added us  ahead us  tables s    new ms   seen ms   (processor time; medians)")
    for path in paths:
        engine = opened(path)
        cost_of_a_token(engine, GrammarCompiler(engine.tokenizer, engine.info), options.rounds)
        engine.close()
    print("\nwhole answer, decode rate constrained / free: median and range")
    cost_of_an_answer(paths[0], options.rounds)


if __name__ == "__main__":
    main()
