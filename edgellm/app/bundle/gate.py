"""What a slot must do before it is served: start, answer as it did where it was made, as fast as its plan says, and in
its memory. It is asked on a port of its own, while the other slot is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from edgellm.app.bundle import trial as trials
from edgellm.app.bundle.trial import Trial, TrialFailed
from edgellm.bundle import golden as goldens
from edgellm.bundle.golden import Golden
from edgellm.bundle.manifest import Target, damaged
from edgellm.bundle.slots import RUN, BundleSlot, installing
from edgellm.contract.source import Progress
from edgellm.errors import UnfitSlot, UnsupportedArtifact
from edgellm.files import DamagedRecord, read_json_record, read_regular
from edgellm.hardware.host_checks import busy_load
from edgellm.hardware.probe import probe
from edgellm.store.library import silent

CheckName = Literal["start", "template", "answers", "speed", "memory"]
State = Literal["passed", "failed", "skipped", "not recorded"]
CHECKS: tuple[CheckName, ...] = get_args(CheckName)
DEADLINE_S = 300.0
_TOKENS = 32  # of an answer whose speed is measured
_TRIES = 5  # the fastest counts: what is served meanwhile computes, too
# Of what the plan counts, and of what it does not: the process of chat templates, and another Python's libraries.
_SHARE, _BESIDE_BYTES = 1.1, 32 * 1024**2
_MAX_PLAN_BYTES = 16 * 1024**2


class GateCheck(Struct, frozen=True, kw_only=True):
    """One check. `value` and `bound`: seconds, tokens, nats, tokens a second, bytes; None where there are none."""

    name: CheckName
    state: State
    value: float | None = None
    bound: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GateOptions:
    skipped: frozenset[CheckName] = frozenset()  # "start" = all of them
    deadline_s: float = DEADLINE_S


class _Memory(Struct):
    resident_bytes: Annotated[int, Meta(ge=0)]
    needed_bytes: Annotated[int, Meta(ge=0)] = 0


class _Rate(Struct):
    low: Annotated[float, Meta(ge=0)]


class _Choice(Struct):
    memory: _Memory
    decode: _Rate


class _Plan(Struct):
    """What the gate reads of a plan."""

    choice: _Choice | None = None


def examined(
    slot: BundleSlot, options: GateOptions, progress: Progress = silent, *, is_first: bool = False
) -> tuple[GateCheck, ...]:
    """All checks of a whole slot, passed or skipped. `is_first`: nothing is served yet.

    Raises:
        UnfitSlot: some failed; it has all of them. BadArtifact, UnsupportedArtifact: the slot is damaged.
    """
    if "start" in options.skipped:
        return tuple(GateCheck(name=name, state="skipped") for name in CHECKS)
    machine = probe()
    load = busy_load(machine)  # before the trial computes
    target = _target(slot)
    plan, golden = _plan(slot, target), _golden(slot, target)
    if (crowded := _crowded(plan)) and "memory" not in options.skipped:
        checks: tuple[GateCheck, ...] = (crowded,)
    else:
        progress(0, None, "asking the new slot")
        checks = _asked(slot, plan, golden, options)
    failed = [check for check in checks if check.state == "failed"]
    if failed:
        what = "; ".join(f"{check.name}: {check.problem}" for check in failed)
        rows = tuple(msgspec.to_builtins(check) for check in checks)
        hint = remedy([check.name for check in failed], load, machine.cpu.threads, is_first=is_first)
        raise UnfitSlot(f"slot {slot.name} is not activated: {what}", hint=hint, checks=rows)
    return checks


def remedy(failed: Sequence[CheckName], load: float | None, threads: int, *, is_first: bool) -> str:
    """What to do about failed checks. `load`: of a machine that was busy before; `is_first`: nothing is served yet."""
    busy = ""
    if load is not None and "speed" in failed:
        busy = f"the machine is busy (a load of {load:.1f} on {threads} processors), try again when it is not; "
    goes_on = "nothing is served yet" if is_first else "what is served goes on"
    return f"{busy}{goes_on}; --skip {failed[0]} activates it without that check"


def _crowded(plan: _Plan) -> GateCheck | None:
    """Whether two at a time have no room; None = they have. What is served would be the first to suffer."""
    available = probe().memory.available_bytes
    if plan.choice is None or available is None or plan.choice.memory.needed_bytes <= available:
        return None
    problem = "it has no room beside what runs here: stop what is served, and activate it then"
    return GateCheck(
        name="memory", state="failed", value=available, bound=plan.choice.memory.needed_bytes, problem=problem
    )


def _asked(slot: BundleSlot, plan: _Plan, golden: Golden | None, options: GateOptions) -> tuple[GateCheck, ...]:
    checks: list[GateCheck] = []
    trial = Trial([str(slot.folder / RUN)])
    with trial:
        try:
            seconds = trial.wait(options.deadline_s)
            checks.append(GateCheck(name="start", state="passed", value=round(seconds, 3), bound=options.deadline_s))
        except TrialFailed as error:
            problem = str(error)
        else:
            checks += _each(trial, plan, golden, options)
    if not checks:
        told = f"{problem}: {trial.last_words}" if trial.last_words else problem
        checks.append(GateCheck(name="start", state="failed", bound=options.deadline_s, problem=told))
    return tuple(checks)


def _each(trial: Trial, plan: _Plan, golden: Golden | None, options: GateOptions) -> Iterator[GateCheck]:
    steps: dict[CheckName, Callable[[], GateCheck]] = {
        "template": lambda: _template(trial, golden),
        "answers": lambda: _answers(trial, golden),
        "speed": lambda: _speed(trial, plan),
        "memory": lambda: _memory(trial, plan),
    }
    for name, step in steps.items():
        if name in options.skipped:
            yield GateCheck(name=name, state="skipped")
            continue
        try:
            yield step()
        except TrialFailed as error:
            yield GateCheck(name=name, state="failed", problem=str(error))


def _template(trial: Trial, golden: Golden | None) -> GateCheck:
    if golden is None or golden.chat is None:
        return GateCheck(name="template", state="not recorded")
    value = abs(trials.chat(trial, golden.chat.prompt).prompt_tokens - golden.chat.prompt_tokens)
    bound = goldens.TEMPLATE_TOLERANCE
    return _judged("template", value, bound, value <= bound, f"a prompt has {value} tokens more or less than it had")


def _answers(trial: Trial, golden: Golden | None) -> GateCheck:
    if golden is None:
        return GateCheck(name="answers", state="not recorded")
    answered = Golden(texts=trials.answers(trial, [text.text for text in golden.texts]))
    value, bound = goldens.difference(golden, answered), goldens.TOLERANCE
    if value is None:
        problem = "a text is cut into another number of tokens than where the bundle was made"
        return GateCheck(name="answers", state="failed", bound=bound, problem=problem)
    problem = f"log-probabilities differ by {value:.2f} from those where the bundle was made, and may by {bound}"
    return _judged("answers", round(value, 4), bound, value <= bound, problem)


def _speed(trial: Trial, plan: _Plan) -> GateCheck:
    if plan.choice is None or not trials.generates(trial):
        return GateCheck(name="speed", state="not recorded")
    bound, value = plan.choice.decode.low, 0.0
    for _ in range(_TRIES):
        value = max(value, trials.decode_rate(trial, _TOKENS))
        if value >= bound:
            break
    problem = f"it writes {value:.1f} tok/s, and its plan says {bound:.1f} at least"
    return _judged("speed", round(value, 2), bound, value >= bound, problem)


def _memory(trial: Trial, plan: _Plan) -> GateCheck:
    if plan.choice is None:
        return GateCheck(name="memory", state="not recorded")
    value = trial.resident_bytes()
    bound = int(plan.choice.memory.resident_bytes * _SHARE) + _BESIDE_BYTES
    problem = f"it takes {value // 1024**2:,} MiB, and its plan allows {bound // 1024**2:,}"
    return _judged("memory", value, bound, value <= bound, problem)


def _judged(name: CheckName, value: float, bound: float, passed: bool, problem: str) -> GateCheck:
    return GateCheck(
        name=name, state="passed" if passed else "failed", value=value, bound=bound, problem="" if passed else problem
    )


def _target(slot: BundleSlot) -> Target:
    """
    Raises:
        BadArtifact, UnsupportedArtifact: the slot is not whole.
    """
    if slot.record is not None:
        with suppress(OSError):
            for target in slot.manifest().targets:
                if target.name == slot.record.target:
                    return target
    hint = f"install a bundle first: {installing(slot.folder.parent)}"
    raise UnsupportedArtifact(f"slot {slot.folder} holds nothing that is whole", hint=hint)


def _plan(slot: BundleSlot, target: Target) -> _Plan:
    try:
        return read_json_record(slot.files / target.plan, _Plan, _MAX_PLAN_BYTES)
    except (OSError, DamagedRecord) as error:
        raise damaged(f"its plan cannot be read: {error}") from None


def _golden(slot: BundleSlot, target: Target) -> Golden | None:
    if not target.golden:
        return None
    try:
        return goldens.decode(read_regular(slot.files / target.golden, goldens.MAX_BYTES))
    except OSError as error:
        raise damaged(f"its golden answers cannot be read: {error}") from None
