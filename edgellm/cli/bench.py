"""`edgellm bench`: how fast a model is here, how much memory it takes, and how good a quantization is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm import settings
from edgellm.cli._options import kv, max_rate
from edgellm.cli.download import Question, max_download, yes
from edgellm.cli.page import examples, say, say_json, say_lines
from edgellm.cli.words import BACKEND, MODEL, WholeNumber
from edgellm.errors import UsageError
from edgellm.units import counted, parse_bytes, show_memory, show_rate

if TYPE_CHECKING:
    from edgellm.history.run_log import Bench, Numbers, Quality, Row, Run
    from edgellm.sdk.bench import BenchOptions, Change, Results
    from edgellm.types.machine import Machine
    from edgellm.types.plan import LaunchPlan
    from edgellm.types.request import SelectionRequest

SCHEMA = 1
MAX_TEXT_BYTES = 16 * 1024**2
MAX_TOKENS = 2**20


def counts(least: int) -> Callable[[click.Context, click.Parameter, str | None], tuple[int, ...]]:
    """Reads numbers with commas between them, without duplicates; () where the flag is unset."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
        if value is None:
            return ()
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and least <= int(part) <= MAX_TOKENS for part in parts):
            raise click.BadParameter(f"{value!r} is not a list of numbers from {least} to {MAX_TOKENS}, as 512,2048")
        return tuple(dict.fromkeys(int(part) for part in parts))

    return read


@click.command(
    epilog=examples(
        "edgellm bench qwen3-0.6b",
        "edgellm bench qwen3-0.6b --prompt 512,2048 --compare",
        "edgellm bench qwen3-4b:Q4_K_M --perplexity text.txt --against qwen3-4b:Q8_0",
    )
)
@click.argument("model", required=False, type=MODEL)
@click.option(
    "--prompt",
    "prompts",
    callback=counts(1),
    metavar="N,..",
    default="512",
    show_default=True,
    help="Lengths of prompts, tokens.",
)
@click.option("--gen", type=WholeNumber(0, MAX_TOKENS), default=64, show_default=True, help="Tokens to generate.")
@click.option(
    "--ctx",
    "depths",
    callback=counts(0),
    metavar="N,..",
    default="0",
    show_default=True,
    help="Tokens in the cache before.",
)
@click.option("--threads", callback=counts(1), metavar="N,..", help="Thread counts to compare; unset = what fits here.")
@click.option("--repeat", type=WholeNumber(0, 100), default=3, show_default=True, help="Rounds; 0 = quality only.")
@kv
@click.option("--backend", type=BACKEND, help="Only this backend.")
@click.option("--offline", is_flag=True, help="Only what is on this disk already.")
@max_download
@max_rate
@yes
@click.option("--compare", is_flag=True, help="Compare with the last bench of the same file on this machine.")
@click.option("--perplexity", "text", type=click.Path(path_type=Path), metavar="TEXTFILE", help="Score this text.")
@click.option(
    "--against",
    type=MODEL,
    metavar="MODEL|FILE",
    help="A better quantization of the same model to compare answers with.",
)
@click.option("--chunk", type=WholeNumber(32, 8192), default=512, show_default=True, help="Tokens scored at a time.")
@click.option("--chunks", type=WholeNumber(1, 10_000), default=8, show_default=True, help="Chunks of the text at most.")
@click.option(
    "--max-kl",
    type=click.FloatRange(0),
    help="Veto the quantization above this divergence, in nats per token (default: 0.3).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/measured.md).")
def command(
    *,
    model: str | None,
    prompts: tuple[int, ...],
    gen: int,
    depths: tuple[int, ...],
    threads: tuple[int, ...],
    repeat: int,
    kv: str,
    backend: str | None,
    offline: bool,
    max_download: str | None,
    compare: bool,
    text: Path | None,
    as_json: bool,
    **quality: Any,
) -> None:
    """Measure a model's speed, memory and quality on this machine.

    MODEL is a catalog id or a path of a model file; without it, what `edgellm serve` would choose.
    """
    from edgellm.app.asked import with_threads
    from edgellm.contract.child import ended_with_us
    from edgellm.sdk import bench
    from edgellm.types.request import SelectionRequest, cache_type

    if quality["against"] is not None and text is None:
        raise UsageError("--against needs a text", hint="name one with --perplexity TEXTFILE", param="against")
    words = None if text is None else _read(text)
    tests = bench.BenchOptions(prompts, gen, depths, threads, repeat)
    request = SelectionRequest(
        ctx=tests.ctx,
        backend=backend,
        offline=offline or settings.current().offline,
        kv_type=cache_type(kv),
        max_download_bytes=None if max_download is None else parse_bytes(max_download),
    )
    with ended_with_us():
        plan = _plan(model, request)
        report: dict[str, Any] = {"schema": SCHEMA, "model": plan.artifact.name, "quant": plan.artifact.quant}
        lines = []
        if repeat:
            lines += _speed(plan, tests, report, compare=compare)
        if words is not None:
            scored = with_threads(plan, threads[0]) if threads else plan
            lines += _quality(scored, words, request, report, **quality)
    if as_json:
        say_json(report)
    else:
        say_lines("\n".join(lines))


def _plan(model: str | None, request: SelectionRequest) -> LaunchPlan:
    from edgellm.app import launch
    from edgellm.cli._options import headline, say_taken
    from edgellm.cli.progress import progress

    with progress() as report:
        approve = Question(report)
        if model is None:
            plan, _ = launch.auto_plan(request, progress=report, approve=approve)
        else:
            plan = launch.model_plan(model, request, to_check=True, progress=report, approve=approve)
    say_taken(plan)
    say(headline(plan), err=True)
    return plan


def _read(path: Path) -> str:
    from edgellm.files import read_named

    try:
        return read_named(path, MAX_TEXT_BYTES).decode("utf-8", "replace")
    except OSError as error:
        hint = "a plain text of some thousand words"
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=hint, param="perplexity") from None


def _keep(machine: Machine, row: Row) -> None:
    """For later predictions; where the disk refuses, the results are shown all the same."""
    from edgellm.history import run_log

    try:
        run_log.record(machine, row)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"The results are not kept: {reason}.", err=True)


def _speed(plan: LaunchPlan, tests: BenchOptions, report: dict[str, Any], *, compare: bool) -> list[str]:
    """Measure and record the speed; fills `report` and returns the lines to print."""
    import msgspec

    from edgellm.hardware.probe import probe
    from edgellm.history import run_log
    from edgellm.sdk import bench

    machine = probe()
    # First, because the loads below correct later predictions.
    expected = bench.expected(plan, machine, tests)
    results = bench.measure(plan, tests, lambda what: say_lines(what, err=True))
    before = run_log.read(machine).benches
    row = bench.row(plan, results)
    _keep(machine, row)
    previous = bench.earlier(before, row) if compare else None
    compared = bench.changes(row, previous) if previous else []
    report["tests"] = [
        msgspec.to_builtins(test)
        | {"first_token_s": results.first_token(test), "predicted": expected.get((test.name, test.threads))}
        for test in row.tests
    ]
    report["loads"] = [msgspec.to_builtins(run) for run in results.runs]
    report["compared_with"] = None if previous is None else {"time": previous.time, "build": previous.build}
    report["changes"] = [
        {"name": c.test.name, "threads": c.test.threads, "ratio": round(c.ratio, 4), "verdict": c.verdict}
        for c in compared
    ]
    lines = _table(results, row, expected)
    lines += [line for run in results.latest() for line in _memory(run)]
    if compare:
        lines += _comparison(row, previous, compared)
    return lines


def _table(results: Results, row: Bench, expected: dict[tuple[str, int], float]) -> list[str]:
    width = max(len(test.name) for test in row.tests)
    lines = [
        f"{'test':<{width}} {'threads':>7} {'tok/s':>8} {'spread':>15} {'first token':>12} {'predicted':>10} (of it)"
    ]
    for test in row.tests:
        spread = f"{show_rate(test.low)} to {show_rate(test.high)}"
        first = results.first_token(test)
        predicted = expected.get((test.name, test.threads))
        ratio = "" if predicted is None else f"{show_rate(predicted):>10} ({test.median / predicted:.2f})"
        latency = "" if first is None else f"{first * 1000:,.0f} ms"
        rate = show_rate(test.median)
        lines.append(f"{test.name:<{width}} {test.threads:>7} {rate:>8} {spread:>15} {latency:>12} {ratio}".rstrip())
    return lines


def _memory(run: Run) -> list[str]:
    from edgellm.history import run_log

    def shown(numbers: Numbers) -> str:
        return "unknown" if numbers.resident_bytes is None else show_memory(numbers.resident_bytes)

    threads = counted(run.threads, "thread")
    lines = [f"memory at its peak, {threads}: {shown(run.measured)}, {shown(run.predicted)} predicted"]
    if run_log.is_busy(run):
        lines.append(f"Other programs had the processors for {run.waited or 0:.0%} of the time: rates are too low.")
    return lines


def _comparison(row: Bench, previous: Bench | None, compared: list[Change]) -> list[str]:
    if previous is None:
        return ["", "Nothing to compare with: no earlier bench of this file is known here."]
    build = "the same build" if previous.build == row.build else f"another build ({previous.build}, now {row.build})"
    lines = ["", f"Compared with {previous.time}, {build}"]
    for change in compared:
        name = f"{change.test.name}, {counted(change.test.threads, 'thread')}"
        lines.append(f"  {name:<26} {(change.ratio - 1) * 100:+6.1f}%  {change.verdict}")
    slower = [change.test.name for change in compared if change.verdict == "slower"]
    lines.append(
        f"Slower than noise explains: {', '.join(slower)}." if slower else "No test is slower than noise explains."
    )
    return lines


def _quality(
    plan: LaunchPlan,
    text: str,
    request: SelectionRequest,
    report: dict[str, Any],
    *,
    against: str | None,
    chunk: int,
    chunks: int,
    max_kl: float | None,
) -> list[str]:
    """Measure and record the quality; fills `report` and returns the lines to print."""
    import msgspec

    from edgellm.hardware.probe import probe
    from edgellm.sdk import bench

    reference = None if against is None else _plan(against, request)
    quality = bench.check(
        plan,
        reference,
        text,
        chunk=chunk,
        chunks=chunks,
        max_kl=bench.MAX_KL if max_kl is None else max_kl,
        progress=lambda p: click.echo(f"chunk {p.done} of {p.of}: perplexity {p.perplexity:.3f}", err=True),
    )
    machine: Machine = probe(measure=False)
    _keep(machine, quality)
    report["quality"] = msgspec.to_builtins(quality)
    return _verdict(quality)


def _verdict(quality: Quality) -> list[str]:
    lines = [f"perplexity {quality.perplexity:.4f} over {quality.tokens:,} tokens"]
    if quality.mean_kl is not None and quality.high_kl is not None and quality.top_agreement is not None:
        lines += [
            f"against {quality.reference} (perplexity {quality.reference_perplexity or 0:.4f}): "
            f"divergence {quality.mean_kl:.4f} nats a token, {quality.high_kl:.4f} at the 99th percentile; "
            f"the same likeliest token for {quality.top_agreement:.1%}"
        ]
    if quality.veto:
        lines.append(f"Vetoed: {quality.veto}. Selection leaves it out here until a check passes.")
    return lines
