"""What a person should know of a tuning, in sentences."""

from __future__ import annotations

from datetime import timedelta

from edgellm.types.tune_reason import (
    TuneLengthChosen,
    TuneMemoryChosen,
    TuneMethodChosen,
    TuneRankChosen,
    TuneReason,
    TuneRowsChosen,
    TuneTimeChosen,
)
from edgellm.types.tuning import TuneEnd, TuneStarted
from edgellm.types.tuning_data import DataProblem, DataReport
from edgellm.types.tuning_gate import PairedGain
from edgellm.types.tuning_options import Tuned, TunePreview
from edgellm.units import counted, show_size

_PROBLEMS = {
    "not_utf8": "byte {value} is no UTF-8",
    "too_long": "it has {value} bytes, more than a line may have",
    "not_json": "it is no JSON: {value}",
    "not_csv": "it is no CSV, nor is anything read behind it: {value}",
    "not_an_object": "it is {value}, an object with keys is expected",
    "no_form": "its keys ({value}) are those of no form of training data",
    "preferences": "it prefers one answer to another ({value}): methods that learn from preferences are not there",
    "wrong_type": "{field} is {value}",
    "missing": "{field} is missing",
    "bad_message": "{field}: {value}",
    "bad_tool": "{field}: {value}",
    "no_answer": "nobody answers in it",
    "empty_answer": "{field}: the answer is empty",
    "empty_text": "{field} is empty",
    "template_refused": "{field}: the model's template does not take it: {value}",
    "answer_changed": "{field}: the model's template does not write this answer as it stands: {value}",
    "nothing_supervised": "{value} tokens come before the answer, more than a row holds",
    "no_template": "it is a conversation, and the model has no template for them",
    "empty_turn": "{field} is empty",
    "truncated": "of its {value} tokens those that a row holds are learned",
    "in_pieces": "it became {value} examples",
    "end_added": "the template ends no answer; the model's own end is learned behind it",
    "thought_left_out": "{field}: the template writes no thoughts, or others",
    "repeated": "it repeats line {value}",
}


def data_problem(of: DataProblem) -> str:
    """What is wrong with a line, without its number."""
    return _PROBLEMS[of.kind].format(field=of.field, value=of.value)


def problems(report: DataReport, most: int = 5) -> list[str]:
    """The first lines that are not learned, and how many kinds of others there are."""
    refused = [one for one in report.problems if one.refuses]
    lines = [f"line {one.line}: {data_problem(one)}" for one in refused[:most]]
    if report.n_refused > len(lines):
        lines.append(f"... {report.n_refused - len(lines)} further lines are not learned")
    noted = {
        kind: n for kind, n in report.counts.items() if any(p.kind == kind and not p.refuses for p in report.problems)
    }
    for kind, n in noted.items():
        first = next(one for one in report.problems if one.kind == kind)
        lines.append(f"{counted(n, 'line')}, the first is {first.line}: {data_problem(first)}")
    return lines


def data(of: TunePreview) -> str:
    """How much there is to learn from."""
    report, size = of.report, of.size
    held = f"; {of.n_held_out} examples are held out" if of.n_held_out else "; nothing is held out"
    return (
        f"{of.n_examples:,} examples of {report.n_lines:,} lines, "
        f"{size.n_supervised:,} of {size.n_tokens:,} tokens are learned{held}"
    )


def reason(of: TuneReason) -> str:
    """Why it is tuned so."""
    match of:
        case TuneMethodChosen():
            return f"{of.method}, {'as asked' if of.asked else 'as usual here'}, learning rate {of.learning_rate:g}"
        case TuneRankChosen():
            holds = f": room for about {of.capacity:,} tokens, {of.n_supervised:,} are learned" if of.capacity else ""
            return f"rank {of.rank}{_why(asked=of.asked, saves_memory=of.saves_memory)}{holds}"
        case TuneLengthChosen():
            whole = f"{of.share_whole:.0%} of the examples are whole, the longest has {of.longest} tokens"
            return f"rows of {of.length} tokens{_why(asked=of.asked, saves_memory=of.saves_memory)}: {whole}"
        case TuneRowsChosen():
            times = f", {of.accumulate} times a step" if of.accumulate > 1 else ""
            return f"{counted(of.batch, 'row')} at a time{times}: {of.examples:.0f} examples a step"
        case TuneMemoryChosen():
            again = ", layers computed again for the gradient" if of.checkpointing else ""
            kept = ", the base in its blocks" if of.quantized else ", the base unpacked"
            used = f"{show_size(of.needed_bytes)} of {show_size(of.budget_bytes)}"
            return f"{used} of memory (predicted){kept}{again}: {of.tok_s:.0f} tokens a second (predicted)"
        case TuneTimeChosen():
            most = f" of the {duration(of.asked_s)} that it may take" if of.asked_s is not None else ""
            ends = ", which ends it before all epochs are made" if of.cut else ""
            steps = f"{counted(of.epochs, 'epoch')}, {counted(of.n_steps, 'step')}"
            return f"{steps}: about {duration(of.wall_s)}{most}{ends}"


def _why(*, asked: bool, saves_memory: bool) -> str:
    return ", as asked" if asked else ", less than usual to save memory" if saves_memory else ""


def duration(seconds: float) -> str:
    """As a person says it: "0:08:30"."""
    return str(timedelta(seconds=round(seconds)))


def started(event: TuneStarted) -> str:
    """What is to be known when it begins; "" = nothing."""
    words = [f"{place}; an older checkpoint is taken" for place in event.damaged]
    if event.first_step:
        words.append(f"it goes on after step {event.first_step} of {event.n_steps}")
        if not event.exact:
            words.append("bits may differ from those of one run: machine, library or threads are others")
    return "; ".join(words)


def end(of: TuneEnd, step: int, n_steps: int) -> str:
    match of:
        case "complete":
            return f"all {n_steps} steps are made"
        case "no_gain":
            return f"held-out examples were no better any more; the best step was {step}"
        case "asked":
            return f"it was ended after step {n_steps}"


def result(tuned: Tuned) -> list[str]:
    """A table of what was better, worse or no different, before and after."""
    rows = [("held-out examples", "before", "after")]
    if tuned.loss_before is not None and tuned.loss_after is not None:
        rows.append(("nats a token", f"{tuned.loss_before:.3f}", f"{tuned.loss_after:.3f}"))
    if tuned.gain is not None:
        gain = tuned.gain
        rows.append((f"right answers of {gain.n_rows}", f"{gain.before:.1%}", f"{gain.after:.1%}"))
    if len(rows) == 1:
        return ["Nothing was held out, so nothing is known of what it is worth."]
    lines = [f"{label:<24}{before:>10}{after:>10}" for label, before, after in rows]
    return [*lines, verdict(tuned.gain)] if tuned.gain is not None else lines


def verdict(gain: PairedGain) -> str:
    """What the answers show."""
    words = {"better": "Better", "worse": "Worse", "no_different": "No different, as far as these examples tell"}
    points = f"{gain.gain * 100:+.1f} points, {gain.low * 100:+.1f} to {gain.high * 100:+.1f} with {gain.level:.0%}"
    return f"{words[gain.verdict]}: {points}."
