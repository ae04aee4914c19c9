"""The settings of a tuning and its device: by the rules, of this machine, and with the formulas of the tuner."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from edgellm.adaptation import devices, rules
from edgellm.adaptation.example import Example
from edgellm.adaptation.rules import TuneQuestion, TunerFormulas
from edgellm.app.tune.machine_devices import MachineDevices
from edgellm.contract.tuner import Tuner, rate_of
from edgellm.errors import NothingFits, option
from edgellm.hardware.host_checks import busy_load
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.tune_device import CPU
from edgellm.types.tune_reason import TuneChoice
from edgellm.types.tuning import TuneSettings
from edgellm.types.tuning_options import TuneOptions
from edgellm.units import show_size


def chosen(
    tuner: Tuner,
    base: Artifact,
    examples: Sequence[Example],
    machine: Machine,
    options: TuneOptions,
    *,
    begun: TuneSettings | None,
) -> TuneChoice:
    """`begun`: settings of an earlier run, which is gone on from.

    Raises:
        NothingFits: with other settings, which would fit. UsageError: a GPU is named that is not here.
    """
    seen, seconds = MachineDevices(machine, tuner), options.seconds
    formulas = TunerFormulas(
        functools.partial(tuner.footprint, base),
        lambda run: rate_of(tuner, base, run, machine, seen.facts.get(run.device)),
        tuner.methods,
    )
    question = TuneQuestion(
        examples,
        options.memory_bytes if options.memory_bytes is not None else machine.memory_budget_bytes,
        base.ctx_train or max(map(len, examples)),
        options.threads or machine.compute_threads,
        options.seed,
        seconds / 2 if seconds and options.control else seconds,  # the control takes the other half
        options.nice,
        busy_load(machine),
        machine.cpu.threads,
        options.asked(),
    )
    asked = options.asked_device
    if asked is None:
        choice = devices.place(question, formulas, seen.devices, begun=begun)
    elif asked == CPU:
        choice = devices.placed(rules.decide(question, formulas), asked=True)
    else:
        choice = devices.on(seen.named(asked), question, formulas)
    if begun is not None and begun.device != choice.settings.device:
        choice = devices.gone_on(choice, begun, question, formulas)
    if not choice.fits:
        raise _too_large(base, choice, options, question, formulas)
    return choice


def _too_large(
    base: Artifact, choice: TuneChoice, options: TuneOptions, question: TuneQuestion, formulas: TunerFormulas
) -> NothingFits:
    needed, room, what = choice.footprint.needed_bytes, choice.budget_bytes, f"{base.name} {base.quant}"
    hint = _instead(choice, options)
    if (device := choice.device) is None:
        return NothingFits(f"tuning {what} needs {show_size(needed)}, {show_size(room)} may be used", hint=hint)
    if choice.instead is None:
        hint = "free its memory, or tune a smaller base, or the same in a smaller quantization"
    if rules.decide(question, formulas).fits:
        hint = f"{hint}; {option('device', CPU)} fits as it is"
    there = choice.needed_bytes
    if device.unified or there > device.room_bytes:
        where = f"the memory of {device.name} ({device.description})"
        held = f"{show_size(there)} of {where}, {show_size(device.room_bytes)} may be used"
    else:
        held = f"{show_size(needed)} of RAM beside {device.name}, of which {show_size(room)} may be used"
    return NothingFits(f"tuning {what} needs {held}", hint=hint)


def _instead(choice: TuneChoice, options: TuneOptions) -> str:
    if choice.instead is None:
        return "free memory, or tune a smaller base, or the same in a smaller quantization"
    names = [name for name in options.asked() if getattr(choice.instead, name) != getattr(choice.settings, name)]
    return f"{' and '.join(option(name, getattr(choice.instead, name)) for name in names)} would fit"
