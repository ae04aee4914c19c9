"""What is measured has the lengths and depths that were asked for; what differs by less than noise is called noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgellm.app import context as app_context
from edgellm.cli import bench as cli_bench
from edgellm.hardware.probe import probe
from edgellm.history import run_log
from edgellm.history.run_log import Bench, BenchTest
from edgellm.runtime.perplexity import Score
from edgellm.sdk import bench
from edgellm.sdk.bench import BenchOptions
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.units import counted

ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=4096))


def test_every_test_of_every_round_is_measured() -> None:
    wanted = BenchOptions(prompts=(64, 200), gen=8, depths=(0, 300), threads=(1, 2), repeats=2)
    said: list[str] = []
    found = bench.measure(ECHO, wanted, said.append)
    names = ["pp64", "pp200", "tg8", "pp64 @ 300", "pp200 @ 300", "tg8 @ 300"]
    assert [(test.name, test.threads) for test in found.tests()] == [(n, t) for t in (1, 2) for n in names]
    assert {test.repeats for test in found.tests()} == {2}
    assert all(0 < test.low <= test.median <= test.high for test in found.tests())
    assert said == [f"round {n} of 2, {counted(t, 'thread')}" for n in (1, 2) for t in (1, 2)]
    firsts = {test.name for test in found.tests() if found.first_token(test) is not None}
    assert firsts == {"pp64", "pp200", "pp64 @ 300", "pp200 @ 300"}


def test_prompts_have_the_tokens_that_were_asked_for_at_the_depth_that_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Echo's tokens are bytes: its prompts come out a word longer or shorter, however many bytes a word has."""
    seen = []
    generate = EdgeLLM.generate

    def spy(self: EdgeLLM, request):
        for event in generate(self, request):
            if not hasattr(event, "text"):
                seen.append((event.usage.prompt_tokens - event.usage.cached_tokens, event.usage.cached_tokens))
            yield event

    monkeypatch.setattr(EdgeLLM, "generate", spy)
    bench.measure(ECHO, BenchOptions(prompts=(500,), gen=4, depths=(0, 1000), repeats=1))
    _, prompt, _, deep, prompt_at, _, decode_at = seen
    assert prompt[0] == pytest.approx(500, rel=0.1)
    assert deep[0] == pytest.approx(1000, rel=0.1)
    assert prompt_at[0] == pytest.approx(500, rel=0.1)
    assert prompt_at[1] == pytest.approx(deep[0], abs=2)
    assert decode_at[1] == pytest.approx(1000, rel=0.1)


def test_the_context_holds_what_is_asked_for() -> None:
    wanted = BenchOptions(prompts=(128, 2048), gen=64, depths=(0, 4096))
    assert wanted.ctx > 4096 + 2048
    assert BenchOptions(prompts=(1,), gen=0).ctx < 1024


def speed(name: str, median: float, low: float, high: float, threads: int = 1) -> BenchTest:
    return BenchTest(name=name, threads=threads, median=median, low=low, high=high, repeats=3)


def kept(number: int, *tests: BenchTest, build: str = "b1", sha256: str = "s", kv_type: str = "f16") -> Bench:
    return Bench(
        id=str(number), time="", backend="gguf", model="m", quant="Q4_0", sha256=sha256, build=build, kv_type=kv_type,
        tests=tests,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("median", "low", "high", "verdict"),
    [
        (100, 98, 102, "within noise"),
        (93, 90, 99, "within noise"),  # the ranges touch
        (97.5, 97.4, 97.6, "within noise"),  # they do not, but by less than clocks differ
        (90, 88, 95, "slower"),
        (110, 105, 112, "faster"),
    ],
)
def test_a_regression_is_more_than_noise(median: float, low: float, high: float, verdict: str) -> None:
    before, now = kept(1, speed("pp512", 100, 98, 102)), kept(2, speed("pp512", median, low, high))
    (change,) = bench.changes(now, before)
    assert change.verdict == verdict
    assert change.ratio == median / 100


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    row = kept(1, speed("pp512", 1234, 1201, 1299, threads=16), speed("tg64@4096", 98.7, 91.2, 99.9, threads=16))
    results = bench.Results(first_token_s={("pp512", 16): [1.234]})
    lines = cli_bench._table(results, row, {("pp512", 16): 1300.0, ("tg64@4096", 16): 100.0})
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("(0.95)")


def test_only_the_same_tests_are_compared() -> None:
    before = kept(1, speed("pp512", 100, 98, 102), speed("tg64", 10, 9, 11, threads=2))
    assert bench.changes(kept(2, speed("pp256", 10, 9, 11), speed("tg64", 10, 9, 11)), before) == []


def test_the_last_one_of_the_same_file_and_build_is_compared_with() -> None:
    now = kept(9)
    others = [kept(1, sha256="other"), kept(2, kv_type="q8_0")]
    assert bench.earlier([*others, now], now) is None
    older = kept(3, build="b0")
    assert bench.earlier([*others, older], now) is older
    same = kept(4)
    assert bench.earlier([same, *others, older], now) is same


def score(**known: float | None) -> Score:
    return Score(**{"tokens": 100, "perplexity": 12.0, "vocab": 50_000} | known)


def test_a_veto_says_what_it_is_for() -> None:
    assert bench.veto(score(), 0.75) == ""
    assert bench.veto(score(mean_kl=0.29), 0.3) == ""
    said = bench.veto(score(mean_kl=0.31), 0.3)
    assert said == "it diverges from the reference by 0.31 nats a token, 0.3 are allowed"
    assert "that of noise" in bench.veto(score(perplexity=5001.0), 0.75)


def test_a_check_against_an_unquantized_model_counts_in_the_next_plan() -> None:
    machine = probe(measure=False)
    plan, whole = (replace(ECHO, artifact=replace(ECHO.artifact, quant=quant)) for quant in ("Q4_K_M", "F16"))
    text = "the rain fell on the harbour and the boats were full of water " * 8
    run_log.record(machine, bench.check(plan, whole, text, chunk=64, chunks=1, max_kl=bench.MAX_KL))

    assert app_context.divergences(machine) == {("echo", "echo", "Q4_K_M"): 0}
