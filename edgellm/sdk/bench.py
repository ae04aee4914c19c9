"""Measures a plan as users will meet it: through the runtime and its worker, repeats interleaved, medians with spread.

`pp512` reads 512 tokens, `tg64` generates 64; `@ 2048` with 2,048 tokens in the cache before.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from statistics import median

from edgellm.app import verify
from edgellm.app.asked import with_threads
from edgellm.contract.manager import plugins
from edgellm.errors import EdgeLLMError
from edgellm.history import fingerprint, run_log
from edgellm.history.run_log import Bench, BenchTest, Quality, Run
from edgellm.runtime import perplexity
from edgellm.runtime.metrics import MeasuredRates
from edgellm.sdk.client import EdgeLLM
from edgellm.types.event import Done
from edgellm.types.machine import Machine
from edgellm.types.plan import LaunchPlan
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling
from edgellm.units import counted

# Common words: one token each in most vocabularies; how many it really takes is measured.
WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system", "program",
    "question", "work", "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact",
    "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind", "head",
)  # fmt: skip
PROBE_WORDS = 24
SLACK = 64  # tokens of context beyond what the tests ask for
# Smaller differences are noise whatever the repeats say: clocks, pages and heat differ from one load to the next.
NOISE = 0.03

# A model that guesses blindly has a perplexity as large as its vocabulary; a tenth of that is no language.
NOISE_SHARE = 10
# Nats a token. Mistral 7B in IQ2_XXS, 2.1 bits a weight, loses 0.30 of the logarithm of its perplexity, in Q2_K 0.11
# (docs/explain/quality.md). How often the likeliest token is the same says less: small models are often unsure.
MAX_KL = 0.3

BenchProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    prompts: tuple[int, ...] = (512,)
    gen: int = 64
    depths: tuple[int, ...] = (0,)
    threads: tuple[int, ...] = ()  # empty = the plan's
    repeats: int = 3

    @property
    def ctx(self) -> int:
        """Tokens per slot that the tests need."""
        return max(self.depths) + max(*self.prompts, self.gen, PROBE_WORDS * 8) + SLACK


@dataclass(slots=True)
class Results:
    """By (name, threads) every value of a test, in order; tokens per second, or seconds to the first token."""

    values: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    first_token_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    runs: list[Run] = field(default_factory=list)  # what each load recorded, with its memory

    def tests(self) -> tuple[BenchTest, ...]:
        return tuple(
            BenchTest(
                name=name,
                threads=threads,
                median=median(values),
                low=min(values),
                high=max(values),
                repeats=len(values),
            )
            for (name, threads), values in self.values.items()
        )

    def first_token(self, test: BenchTest) -> float | None:
        """Seconds from a prompt to its first token, a median; None = no test of prompts."""
        times = self.first_token_s.get((test.name, test.threads))
        return median(times) if times else None

    def latest(self) -> list[Run]:
        """The last load of each number of threads."""
        return list({run.threads: run for run in self.runs}.values())


def measure(plan: LaunchPlan, options: BenchOptions, progress: BenchProgress = lambda _: None) -> Results:
    """Run every test `repeats` times. Thread counts take turns, so that a busy minute slows all of them.

    Raises:
        BackendError, ArtifactError, WorkerCrashed, ContextOverflow.
    """
    threads = options.threads or (plan.settings.n_threads,)
    results = Results()
    current: tuple[int, _Load] | None = None
    with ExitStack() as stack:
        for number, count in itertools.product(range(options.repeats), threads):
            if current is None or current[0] != count:
                if current is not None:
                    _finish(current[1], results, stack)
                current = (count, stack.enter_context(_Load(with_threads(plan, count))))
            progress(f"round {number + 1} of {options.repeats}, {counted(count, 'thread')}")
            _round(current[1], options, count, results)
        if current is not None:
            _finish(current[1], results, stack)
    return results


def _finish(load: _Load, results: Results, stack: ExitStack) -> None:
    stack.close()
    if load.llm.verification.run is not None:
        results.runs.append(load.llm.verification.run)


def _round(load: _Load, options: BenchOptions, threads: int, results: Results) -> None:
    for depth in options.depths:
        suffix = f" @ {depth}" if depth else ""
        for length in options.prompts:
            done = load.ask(load.cached(depth), length, 1)
            key = (f"pp{length}{suffix}", threads)
            prefilled = done.usage.prompt_tokens - done.usage.cached_tokens
            results.values[key].append(prefilled / done.timings.prefill_s)
            results.first_token_s[key].append(done.timings.queued_s + done.timings.prefill_s)
        if options.gen:
            done = load.ask(load.cached(depth), 1, options.gen + 1)
            rate = done.timings.decode_tok_s(done.usage.completion_tokens)
            results.values[f"tg{options.gen}{suffix}", threads].append(rate)


class _Load:
    """A loaded model, warmed up, whose prompts have the lengths that are asked for."""

    def __init__(self, plan: LaunchPlan) -> None:
        self._plan = plan
        self._words = _words()
        self._per_word = 1.0

    def __enter__(self) -> _Load:
        self.llm = EdgeLLM(self._plan)
        try:
            # The first prompt brings the weights in from the disk.
            tokens = self.ask("", PROBE_WORDS, 2).usage.prompt_tokens - self.llm.info.add_bos
            self._per_word = tokens / PROBE_WORDS
        except BaseException:
            self.llm.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.llm.close()

    def ask(self, before: str, n_prompt: int, n_answer: int) -> Done:
        """Continue `before` and `n_prompt` new tokens by `n_answer` tokens."""
        prompt = before + self._text(n_prompt)
        request = GenerationRequest(prompt, Sampling(temperature=0), n_answer, ignore_eos=True)
        for event in self.llm.generate(request):
            if isinstance(event, Done):
                return event
        raise EdgeLLMError("the answer never ended")

    def cached(self, depth: int) -> str:
        """A text of `depth` tokens that the cache holds now; nothing of it was there before."""
        if not depth:
            return ""
        text = self._text(depth)
        list(self.llm.generate(GenerationRequest(text, Sampling(temperature=0), 1, ignore_eos=True)))
        return text

    def _text(self, n_tokens: int) -> str:
        count = max(1, round(n_tokens / self._per_word))
        return "".join(f" {word}" for word in itertools.islice(self._words, count))


def _words() -> Iterator[str]:
    """The same words in each run; two prompts of one run share no long prefix."""
    draw = random.Random(0)
    while True:
        yield draw.choice(WORDS)


def check(
    plan: LaunchPlan,
    reference: LaunchPlan | None,
    text: str,
    *,
    chunk: int,
    chunks: int,
    max_kl: float,
    progress: Callable[[perplexity.ScoringProgress], None] = lambda _: None,
) -> Quality:
    """Quality of a plan's model on a text, alone or against another quantization of it, with the veto where it fails.

    Raises:
        UsageError: too little text, or another model's tokens. ArtifactError, BackendError, WorkerCrashed.
    """
    other = None if reference is None else _for_chunks(reference, chunk)
    score = perplexity.score(perplexity.Job(_for_chunks(plan, chunk), other, text, chunk, chunks), progress)
    return Quality(
        **run_log.about(plan),
        sha256=plan.artifact.sha256,
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        tokens=score.tokens,
        perplexity=score.perplexity,
        reference="" if reference is None else f"{reference.artifact.name} {reference.artifact.quant}",
        reference_quant="" if reference is None else reference.artifact.quant,
        reference_perplexity=score.reference_perplexity,
        mean_kl=score.mean_kl,
        high_kl=score.high_kl,
        top_agreement=score.top_agreement,
        veto=veto(score, max_kl),
    )


def _for_chunks(plan: LaunchPlan, chunk: int) -> LaunchPlan:
    return replace(plan, settings=replace(plan.settings, n_ctx=chunk, n_slots=1))


def veto(score: perplexity.Score, max_kl: float) -> str:
    """Why the quantization must not be chosen, "" = it may."""
    if score.perplexity > score.vocab / NOISE_SHARE:
        return f"its perplexity of {score.perplexity:.4g} is that of noise (a vocabulary of {score.vocab})"
    if score.mean_kl is not None and score.mean_kl > max_kl:
        return f"it diverges from the reference by {score.mean_kl:.3g} nats a token, {max_kl:g} are allowed"
    return ""


@dataclass(frozen=True, slots=True)
class Change:
    """One test now and then. `verdict`: "slower", "faster" or "within noise"."""

    test: BenchTest
    before: BenchTest
    verdict: str

    @property
    def ratio(self) -> float:
        return self.test.median / self.before.median


def earlier(tests: Sequence[Bench], now: Bench) -> Bench | None:
    """The last one of the same model, file, backend and cache type; of the same build where there is one."""
    alike = [
        bench
        for bench in tests
        if (bench.backend, bench.model, bench.quant, bench.kv_type) == (now.backend, now.model, now.quant, now.kv_type)
        and bench.sha256 == now.sha256
        and bench.id != now.id
    ]
    same_build = [bench for bench in alike if bench.build == now.build]
    matches = same_build or alike
    return matches[-1] if matches else None


def changes(now: Bench, before: Bench) -> list[Change]:
    """Tests that both have. Noise: the ranges of the repeats touch, or the medians differ by less than NOISE."""
    then = {(test.name, test.threads): test for test in before.tests}
    pairs = []
    for test in now.tests:
        if (old := then.get((test.name, test.threads))) is None or old.median <= 0:
            continue
        apart = test.high < old.low or test.low > old.high
        if not apart or abs(test.median / old.median - 1) < NOISE:
            verdict = "within noise"
        else:
            verdict = "slower" if test.median < old.median else "faster"
        pairs.append(Change(test, old, verdict))
    return pairs


def row(plan: LaunchPlan, results: Results) -> Bench:
    """What of the results is kept."""
    return Bench(
        **run_log.about(plan),
        sha256=plan.artifact.sha256,
        build=fingerprint.build(plugins().backend(plan.backend)),
        kv_type=plan.settings.kv_type,
        tests=results.tests(),
    )


def expected(plan: LaunchPlan, machine: Machine, options: BenchOptions) -> dict[tuple[str, int], float]:
    """Predicted rates by (name, threads), corrected by earlier runs; tests without a prediction are left out."""
    if plan.artifact.shape is None:
        return {}
    predictions: dict[tuple[str, int], float] = {}
    facts = verify.facts_of(plan.backend, machine)
    correction = verify.correction(plan, machine, facts)
    for threads in options.threads or (plan.settings.n_threads,):
        own = with_threads(plan, threads)
        for depth in options.depths if options.gen else ():
            numbers = verify.predicted(own, machine, MeasuredRates(decode_depth=depth + options.gen // 2), facts)
            if numbers.decode is not None:
                predictions[f"tg{options.gen}" + (f" @ {depth}" if depth else ""), threads] = (
                    numbers.decode * correction.decode
                )
        # What a prompt costs behind others is not predicted.
        for length in options.prompts if 0 in options.depths else ():
            numbers = verify.predicted(own, machine, MeasuredRates(prefill_tokens=length), facts)
            if numbers.prefill is not None:
                predictions[f"pp{length}", threads] = numbers.prefill * correction.prefill
    return predictions
