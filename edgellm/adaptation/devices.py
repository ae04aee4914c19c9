"""Which device a tuning computes on: a GPU where that is faster than the processor and holds as much, else that.

Pure, as `rules`: it is asked about devices that something else has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from edgellm.adaptation import rules
from edgellm.adaptation.rules import TuneQuestion, TunerFormulas, size_of
from edgellm.types.tune_device import CPU, TuneDevice
from edgellm.types.tune_reason import TuneChoice, TuneDeviceChosen, TuneDevicePassed, scarce_bytes
from edgellm.types.tuning import TuneSettings


@dataclass(frozen=True)
class SeenDevices:
    """GPUs of a machine, in its order: those that can be computed on, and the others with the reason.

    `is_known`: whether anything tells how fast one is.
    """

    usable: tuple[TuneDevice, ...] = ()
    passed: tuple[TuneDevicePassed, ...] = ()
    is_known: Callable[[TuneDevice], bool] = lambda _: True


def place(
    question: TuneQuestion, formulas: TunerFormulas, seen: SeenDevices, *, begun: TuneSettings | None = None
) -> TuneChoice:
    """The choice on the best device.

    `begun`: settings of an earlier run, which stay: it goes on where it began, as long as that has room.
    """
    processor = rules.decide(question, formulas)
    passed = list(seen.passed)
    fitting: list[TuneChoice] = []
    for device in seen.usable:
        choice = rules.decide(replace(question, device=device), formulas)
        if begun is not None:
            choice = gone_on(choice, begun, question, formulas)
        if (why := _why_not(choice, processor, seen, begun)) is None:
            fitting.append(choice)
        else:
            passed.append(why)
    best = max(fitting, key=lambda choice: choice.tok_s, default=processor)
    return placed(best, asked=False, passed=tuple(passed))


def on(device: TuneDevice, question: TuneQuestion, formulas: TunerFormulas) -> TuneChoice:
    """The choice on the one that was asked for, whether it fits or not."""
    return placed(rules.decide(replace(question, device=device), formulas), asked=True)


def gone_on(choice: TuneChoice, begun: TuneSettings, question: TuneQuestion, formulas: TunerFormulas) -> TuneChoice:
    """The choice with what the settings of an earlier run take there, and whether that fits."""
    settings = msgspec.structs.replace(begun, device=choice.settings.device, n_threads=choice.settings.n_threads)
    footprint = formulas.footprint(settings, size_of(question, settings.length))
    there = replace(question, device=choice.device)
    return msgspec.structs.replace(choice, footprint=footprint, fits=there.holds(footprint))


def placed(choice: TuneChoice, *, asked: bool, passed: tuple[TuneDevicePassed, ...] = ()) -> TuneChoice:
    """With the reasons, first of all, why it computes there."""
    device = choice.device
    if device is None:
        reason = TuneDeviceChosen(CPU, asked, len(passed))
    else:
        reason = TuneDeviceChosen(
            device.name,
            asked,
            len(passed),
            device.description,
            choice.needed_bytes,
            device.room_bytes,
            0 if device.unified else device.total_bytes - device.free_bytes,
            choice.footprint.needed_bytes,
            device.unified,
        )
    return msgspec.structs.replace(choice, reasons=(*passed, reason, *choice.reasons))


def _why_not(
    choice: TuneChoice, processor: TuneChoice, seen: SeenDevices, begun: TuneSettings | None
) -> TuneDevicePassed | None:
    device, settings = choice.device, choice.settings
    assert device is not None
    passed = TuneDevicePassed(
        device.name,
        device.description,
        "no_room",
        needed_bytes=scarce_bytes(choice.footprint, device),
        room_bytes=device.room_bytes,
        tok_s=choice.tok_s,
        processor_tok_s=processor.tok_s,
    )
    if begun is not None and choice.fits:
        return None if begun.device == device.name else msgspec.structs.replace(passed, why="began_elsewhere")
    usual = processor.settings
    is_less = settings.rank < usual.rank or settings.length < usual.length
    if not choice.fits or (processor.fits and is_less):
        return passed
    if not seen.is_known(device):
        return msgspec.structs.replace(passed, why="unknown_speed")
    if processor.fits and choice.tok_s <= processor.tok_s:
        return msgspec.structs.replace(passed, why="slower")
    return None
