"""`edgellm tune`: a model gets better at a task, on this machine, from examples of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.download import yes
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import METHOD, MODEL, QUANT, TOKENS, TUNE_DEVICE, WholeNumber

if TYPE_CHECKING:
    from edgellm.app.tune.plan import TunePlan
    from edgellm.types.tuning_options import Tuned, TunePreview

SCHEMA = 1
_STOPPING = "Stopping after this step. A second Ctrl-C ends it at once, and what no checkpoint has is done again."


@click.command(
    epilog=examples(
        "edgellm tune smollm2-135m-instruct mail.jsonl --plan",
        "edgellm tune smollm2-135m-instruct mail.jsonl --name mail --time 30m",
        "edgellm tune ./model-Q4_K_M.gguf notes.csv --method rslora --rank 64 --max-memory 2GiB",
    )
)
@click.argument("base", type=MODEL)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What the result is called; unset = as the data's file.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would take, and stop there.")
@click.option("--time", metavar="TIME", help="Most time that it may take, as 30m or 2h.")
@click.option("--max-memory", metavar="SIZE", help="Most memory that it may take, as 700MiB or 2GiB.")
@click.option("--method", type=METHOD, help="How what is learned is written down.")
@click.option("--rank", type=int, metavar="N", help="Rank of the factors.")
@click.option("--length", type=TOKENS, metavar="TOKENS", help="Most tokens of an example; longer ones are cut.")
@click.option("--batch", type=int, metavar="ROWS", help="Rows that are computed together.")
@click.option("--epochs", type=int, metavar="N", help="How often each example is read.")
@click.option("--learning-rate", type=float, metavar="RATE", help="At its highest.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The same one gives the same result.")
@click.option(
    "--held-out", type=float, default=0.1, show_default=True, metavar="SHARE|N",
    help="Examples that are not learned, but show what was: a share, or how many.",
)  # fmt: skip
@click.option(
    "--shots", type=WholeNumber(0, 64), metavar="N",
    help="Examples in the prompt of the base that it is compared with; unset = one of each class.",
)  # fmt: skip
@click.option(
    "--nice", type=WholeNumber(0, 19), default=19, show_default=True, metavar="N",
    help="How far it yields to other programs: 19 whatever they do, 0 not at all.",
)  # fmt: skip
@click.option("--to", type=QUANT, metavar="QUANT", help="Of dora and full, which make a model: in what it is written.")
@click.option("--general", metavar="FILE|none", help="Text that shows what was forgotten; unset = one that ships.")
@click.option("--control", is_flag=True, help="Tune on shuffled answers, too, which must not help.")
@click.option("--against", metavar="MODEL", help="Another model, not tuned, that answers the same held-out questions.")
@click.option(
    "--device", type=TUNE_DEVICE, metavar="NAME", help="Where it computes; unset = a GPU where that is better."
)
@click.option("--threads", type=int, metavar="N", help="Threads to compute with, instead of what fits here.")
@yes
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(*, base: str, data: Path, only_plan: bool, as_json: bool, **flags: Any) -> None:
    """Tune a model on examples of a task.

    DATA has an example a line: conversations, questions with answers, or texts. What is learned becomes an adapter of
    BASE, or a model of its own. Ctrl-C ends it after a step; the same command goes on from there.
    """
    import threading

    from edgellm.adaptation.worker import TuneStop
    from edgellm.cli.download import Question
    from edgellm.cli.progress import progress
    from edgellm.cli.stopping import asks_to_stop
    from edgellm.cli.tune_progress import tune_progress
    from edgellm.contract.child import ended_with_us
    from edgellm.sdk import tuning

    with ended_with_us(), progress(f"looking for {base}") as report:
        planned = tuning.planned(base, data, progress=report, approve=Question(report), to_run=not only_plan, **flags)
    if not as_json:
        _tell(planned.preview)
    if only_plan:
        if as_json:
            say_json(_answer(planned, None))
        return
    stop = TuneStop()

    def ask() -> None:
        stop.ask()
        # Not in this thread: what it was about to say when the signal came may be half written.
        threading.Thread(target=shown.say, args=(_STOPPING,), name="edgellm-stopping").start()

    with tune_progress() as shown, asks_to_stop(ask) as asked:
        tuned = tuning.run_planned(planned, shown, stop, shown.waiting)
    if as_json:
        say_json(_answer(planned, tuned))
    elif tuned is not None:
        _done(tuned, went_on=planned.preview.resumes)
    else:
        say("Ended as asked. The same command goes on from here.")
    if tuned is None:
        sys.exit(128 + asked.number)


def _tell(preview: TunePreview) -> None:
    from edgellm.explain import tuning as words

    say(f"{preview.base} {preview.quant}, to become {preview.base}:{preview.name}".replace("  ", " "), bold=True)
    say(words.data(preview), lead="  ")
    for line in words.problems(preview.report):
        say(line, lead="    ")
    for line in words.classes(preview):
        say(line, lead="  ")
    for reason in preview.choice.reasons:
        say(words.reason(reason), lead="  ")
    say(words.disk(preview), lead="  ")
    if preview.control:
        say("then once more with shuffled answers, which takes as long again", lead="  ")
    if preview.missing:
        say(f"before it can run: {preview.missing}", lead="  ")
    if preview.resumes:
        say("it goes on where an earlier run was ended", lead="  ")


def _done(tuned: Tuned, *, went_on: bool) -> None:
    from edgellm.explain import tuning as words

    for line in words.result(tuned):
        say(line)
    say(f"Stored {tuned.model}, in {words.duration(tuned.wall_s)}{' since it went on' if went_on else ''}.")
    say(f"use it: edgellm run {tuned.model}", lead="  ")


def _answer(planned: TunePlan, tuned: Tuned | None) -> dict[str, Any]:
    import msgspec

    from edgellm.explain import tuning as words

    preview = planned.preview
    return {
        "schema": SCHEMA,
        **msgspec.to_builtins(preview),
        "needed_bytes": preview.choice.footprint.needed_bytes,
        "device_bytes": preview.choice.footprint.device_bytes,
        "reasons": list(map(words.reason, preview.choice.reasons)),
        "problems": words.problems(preview.report),
        "tuned": msgspec.to_builtins(tuned),
    }
