"""What a person should know of a tuning, in sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta

from edgellm.errors import option
from edgellm.types.tune_device import CPU
from edgellm.types.tune_reason import (
    TuneBusy,
    TuneDeviceChosen,
    TuneDevicePassed,
    TuneLengthChosen,
    TuneMemoryChosen,
    TuneMethodChosen,
    TuneRankChosen,
    TuneReason,
    TuneRowsChosen,
    TuneTimeChosen,
)
from edgellm.types.tuning import TuneEnd, TuneSample, TuneStarted
from edgellm.types.tuning_data import DataProblem, DataReport
from edgellm.types.tuning_gate import Gate, GateVerdict, PairedGain
from edgellm.types.tuning_options import Tuned, TunePreview
from edgellm.units import counted, show_size

_PROBLEMS = {
    "not_utf8": "byte {value} is no UTF-8",
    "too_long": "it has {value} bytes, more than a line may have",
    "not_json": "it cannot be read as JSON: {value}",
    "not_csv": "it is no CSV, nor is anything read behind it: {value}",
    "not_an_object": "it is {value}, an object with keys is expected",
    "no_form": "its keys ({value}) are those of no form of training data",
    "preferences": "it prefers one answer to another ({value}): methods that learn from preferences are not there",
    "wrong_type": "{field} is {value}",
    "missing": "{field} is missing",
    "bad_message": "{field}: {value}",
    "bad_tool": "{field}: {value}",
    "too_many": "{field} has {value}, more than a conversation may have",
    "no_answer": "nobody answers in it",
    "empty_answer": "{field}: the answer is empty",
    "empty_text": "{field} is empty",
    "template_refused": "{field}: the model's template does not take it: {value}",
    "not_tokenized": "it cannot be turned into tokens: {value}",
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


def classes(of: TunePreview) -> list[str]:
    """What the answers are, and of which nothing will be known; empty where they are no classes."""
    lines: list[str] = []
    if of.classes:
        (most, n_most), *_, (least, n_least) = of.classes.items()
        lines.append(f"{len(of.classes)} classes, from {most!r} ({n_most} examples) to {least!r} ({n_least})")
    if of.untested:
        lines.append(f"nothing that is held out shows how {', '.join(map(repr, of.untested[:5]))} is answered")
    if of.n_alike:
        lines.append(f"{counted(of.n_alike, 'example')} not learned: almost the same is held out")
    return lines


def disk(of: TunePreview) -> str:
    """What it takes of the disk, and what for."""
    result = f"a model of its own in {of.merged_quant}" if of.merged_quant else "an adapter beside the base"
    return f"{show_size(of.disk_bytes)} of disk at its highest, with checkpoints; what comes of it is {result}"


def reason(of: TuneReason) -> str:
    """Why it is tuned so."""
    match of:
        case TuneDevicePassed():
            return f"not on {of.device}{_described(of.description)}: {_passed(of)}"
        case TuneDeviceChosen():
            return _place(of)
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
            return f"{used} of RAM (predicted){kept}{again}: {of.tok_s:.0f} tokens a second (predicted)"
        case TuneTimeChosen():
            most = f" of the {duration(of.asked_s)} that it may take" if of.asked_s is not None else ""
            ends = ", which ends it before all epochs are made" if of.cut else ""
            if of.asked_s is not None and of.wall_s > of.asked_s:
                most = f", more than the {duration(of.asked_s)} that it may take, as one step takes that"
            steps = f"{counted(of.epochs, 'epoch')}, {counted(of.n_steps, 'step')}"
            return f"{steps}: {duration(of.low_s)} to {duration(of.high_s)} (predicted){most}{ends}"
        case TuneBusy():
            who = f"other programs keep the {counted(of.processors, 'processor')} busy (a load of {of.load:.1f})"
            cure = f"; with {option('nice', 0)}, which yields to nobody, {duration(of.equal_s)}" if of.nice else ""
            steps = f"the steps alone may come to {duration(of.wall_s)}, and to more where the others never wait"
            return f"Busy: {who}; until they are done {steps}{cure}"


def _place(of: TuneDeviceChosen) -> str:
    if of.device == CPU:
        if of.asked:
            return "on the processor, as asked"
        return "on the processor" if of.n_passed else "on the processor: no GPU is seen that a tuning computes on"
    where = f"on {of.device}{_described(of.description)}{', as asked' if of.asked else ''}"
    if of.unified:
        return f"{where}: {show_size(of.needed_bytes)} of the memory that it shares (predicted, measured on no GPU)"
    used = f"{show_size(of.needed_bytes)} of {show_size(of.room_bytes)} of its memory"
    words = f"{where}: {used} (predicted, measured on no GPU), {show_size(of.host_bytes)} of RAM beside it"
    if not of.held_bytes:
        return words
    return f"{words}; other programs hold {show_size(of.held_bytes)} there now, and what they take more may end it"


def _described(name: str) -> str:
    return f" ({name})" if name else ""


def _passed(of: TuneDevicePassed) -> str:
    match of.why:
        case "no_code":
            return f"{of.lacks} ({of.remedy})"
        case "unusable":
            return "no program here reaches it (`edgellm doctor` says why)"
        case "not_named":
            return "EDGELLM_DEVICE names others"
        case "no_room":
            return f"it takes {show_size(of.needed_bytes)} there, {show_size(of.room_bytes)} may be used"
        case "slower":
            return f"{of.tok_s:.0f} tokens a second there, {of.processor_tok_s:.0f} here (both predicted)"
        case "unknown_speed":
            return f"nothing tells how fast it is; {option('device', of.device)} takes it"
        case "began_elsewhere":
            return f"it began on another device, and goes on there; {option('device', of.device)} takes it"


def _why(*, asked: bool, saves_memory: bool) -> str:
    return ", as asked" if asked else ", less than usual to save memory" if saves_memory else ""


def duration(seconds: float) -> str:
    """As a person says it: "0:08:30"."""
    return str(timedelta(seconds=round(seconds)))


def started(event: TuneStarted) -> str:
    """What is to be known when it begins; "" = nothing."""
    words = ["once more, with shuffled answers"] if event.control else []
    words += [f"{place}; an older checkpoint is taken" for place in event.damaged]
    if event.first_step:
        words.append(f"it goes on after step {event.first_step} of {event.n_steps}")
        if not event.exact:
            words.append("bits may differ from those of one run: machine, device, library or threads are others")
    return "; ".join(words)


def sample(of: TuneSample) -> str:
    """A held-out question in a line: its end, what the model says, and what the data say."""
    question, answer, wanted = (json.dumps(" ".join(text.split()), ensure_ascii=False) for text in (
        of.question[-60:], of.answer, of.wanted))  # fmt: skip
    said = f"{answer}, as the data say" if of.answer.strip() == of.wanted.strip() else f"{answer}, wanted {wanted}"
    return f"step {of.step}, held out: ...{question}: {said}"


def end(of: TuneEnd, step: int, n_steps: int) -> str:
    match of:
        case "complete":
            return f"all {n_steps} steps are made"
        case "no_gain":
            return f"held-out examples were no better any more; the best step was {step}"
        case "asked":
            return f"it was ended after step {n_steps}" if n_steps else "it was ended before a step was made"


def result(tuned: Tuned) -> list[str]:
    """A table of what was better, worse or no different, before and after, and what follows from it."""
    rows = [("", "before", "after")]
    if tuned.loss_before is not None and tuned.loss_after is not None:
        rows.append(("held-out nats a token", f"{tuned.loss_before:.3f}", f"{tuned.loss_after:.3f}"))
    gate = tuned.gate or Gate()
    if (gain := gate.zero_shot) is not None:
        rows.append((f"right answers of {gain.n_rows}", f"{gain.before:.1%}", f"{gain.after:.1%}"))
    if (few := gate.few_shot) is not None:
        rows.append((f"before: with {counted(gate.n_shots, 'example')}", f"{few.before:.1%}", f"{few.after:.1%}"))
    if (other := gate.against) is not None:
        rows.append((f"{other.model[:24]}:", f"{other.zero_shot.before:.1%}", f"{other.zero_shot.after:.1%}"))
        if (few := other.few_shot) is not None:
            rows.append((f"  with {counted(other.n_shots, 'example')}", f"{few.before:.1%}", f"{few.after:.1%}"))
    if (text := gate.forgetting) is not None:
        rows.append(("perplexity, other text", f"{text.before:.2f}", f"{text.after:.2f}"))
    if len(rows) == 1:
        return ["Nothing was held out, so nothing is known of what it is worth."]
    lines = [f"{label:<26}{before:>10}{after:>10}".rstrip() for label, before, after in rows]
    return [*lines, *_conclusions(gate)]


_VERDICTS: dict[GateVerdict, str] = {
    "better": "Better",
    "worse": "Worse",
    "no_different": "No different, as far as these examples tell",
}


def _conclusions(gate: Gate) -> Iterator[str]:
    if gate.zero_shot is not None:
        yield f"{_VERDICTS[gate.zero_shot.verdict]}: {_points(gate.zero_shot)}."
    if gate.few_shot is not None:
        against = f"Against the base with {counted(gate.n_shots, 'example')} in its prompt"
        yield f"{against}: {_VERDICTS[gate.few_shot.verdict].lower()}, {_points(gate.few_shot)}."
    if (other := gate.against) is not None:
        gains = [(other.zero_shot, ""), (other.few_shot, f" with {counted(other.n_shots, 'example')} in its prompt")]
        for gain, how in gains:
            if gain is not None:
                yield f"Against {other.model}, not tuned{how}: {_VERDICTS[gain.verdict].lower()}, {_points(gain)}."
    if (text := gate.forgetting) is not None:
        ratio = f"{text.after / text.before:.3f} times the perplexity, {text.low:.3f} to {text.high:.3f}"
        word = "It forgets" if text.forgets else "It does not forget, as far as this text tells"
        yield f"{word}: other text has {ratio} ({text.allowed:g} is let pass)."
    if (control := gate.shuffled) is not None:
        chance = f"chance is {control.chance:.1%}, {control.low:.1%} to {control.high:.1%}"
        said = (
            f"A model that learned shuffled answers gives {control.accuracy:.1%} of those that were held out; {chance}"
        )
        leak = "it has seen what judges, so no gain above counts" if control.leaks else "nothing leaks"
        yield f"{said}: {leak}."
    if (over := gate.over_shuffled) is not None:
        said = f"Of the true ones it gives {over.before:.1%}, with what the base knew and the form of an answer"
        taught = f"against that the right answers taught {_points(over)}"
        if over.verdict != "better":
            taught = f"no better than that, so no gain above is due to right answers: {_points(over)}"
        yield f"{said}; {taught}."


def _points(gain: PairedGain) -> str:
    return f"{gain.gain * 100:+.1f} points, {gain.low * 100:+.1f} to {gain.high * 100:+.1f} with {gain.level:.0%}"


def figure_rows(figures: Mapping[str, float], against: str) -> list[tuple[str, str]]:
    """What the gate measured of a stored adapter, in words; intervals are told as data only."""
    rows = []
    shares = (
        ("accuracy", "its base"),
        ("few_shot", "its base with examples"),
        ("over_shuffled", "tuned on shuffled answers"),
        ("against", against),
        ("against_few_shot", f"{against} with examples"),
    )
    if "accuracy_after" in figures:
        rows.append(("right answers", f"{figures['accuracy_after']:.1%} of {figures['accuracy_n_rows']:.0f} held out"))
        others = [f"{name} {figures[f'{key}_before']:.1%}" for key, name in shares if f"{key}_before" in figures]
        rows.append(("compared with", ", ".join(others)))
    if "shuffled_accuracy" in figures:
        chance = f"chance is {figures['shuffled_chance']:.1%}"
        rows.append(("control", f"{figures['shuffled_accuracy']:.1%} of shuffled answers known; {chance}"))
    numbers = (("loss", "held-out loss", "nats a token"), ("general", "other text", "perplexity"))
    for key, label, unit in numbers:
        if figures.keys() >= {f"{key}_before", f"{key}_after"}:
            rows.append((label, f"{figures[f'{key}_before']:.3g} before, {figures[f'{key}_after']:.3g} after; {unit}"))
    return rows


def scores(label: str, figures: Mapping[str, float], against: str) -> str:
    """What the gate measured of a stored adapter, beside the models that were not tuned; "" where it did not."""
    if "accuracy_after" not in figures:
        return ""
    said = [f"{figures['accuracy_before']:.1%} as its base was"]
    who = (
        ("few_shot", "its base with examples"),
        ("against", against),
        ("against_few_shot", f"{against} with examples"),
    )
    said += [f"{figures[f'{key}_before']:.1%} {name}" for key, name in who if f"{key}_before" in figures]
    n_rows = f"{figures['accuracy_n_rows']:.0f} held-out questions"
    return f"{label} was right in {figures['accuracy_after']:.1%} of {n_rows}; not tuned: {', '.join(said)}."
