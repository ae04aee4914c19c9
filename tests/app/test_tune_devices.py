"""Which GPUs of a machine a tuning may compute on, by its profile; and that a plan says so before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from app.test_tune import OPTIONS, ROWS, TEMPLATE
from support import toy_tuner
from support.gguf_decoders import Decoder, byte_level
from support.refusals import refuses

from edgellm import settings
from edgellm.adaptation.example import Example
from edgellm.adaptation.worker import TuneStop
from edgellm.app.tune import plan
from edgellm.app.tune.choice import chosen
from edgellm.app.tune.machine_devices import MachineDevices
from edgellm.contract.backend import Advice
from edgellm.contract.manager import plugins
from edgellm.errors import BackendUnavailable, NothingFits, UsageError
from edgellm.explain import tuning as words
from edgellm.hardware import profiles
from edgellm.sdk.tuning import plan_tuning, run_planned, tune
from edgellm.sdk.tuning import planned as planned_by_sdk
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.model import Artifact
from edgellm.types.tune_reason import TuneChoice, TuneDeviceChosen, TuneDevicePassed
from edgellm.types.tuning import TuneEvent, TuneFootprint, TuneProgress, TuneSettings, TuneStarted
from edgellm.types.tuning_options import TuneOptions, TunePreview
from edgellm.units import GIB, MIB


def seen(machine: Machine, **lacks: Advice) -> MachineDevices:
    tuner = toy_tuner.ToyTuner()
    tuner.lacks = lacks.get  # type: ignore[method-assign]
    return MachineDevices(machine, tuner)


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("desktop-2x-rtx-3090-64gb", ["cuda:0", "cuda:1"]),
        ("desktop-rx-7900-xtx", ["cuda:0"]),
        ("desktop-arc-b580", ["xpu:0"]),
        ("apple-m3-36gb" if "apple-m3-36gb" in profiles.names() else "apple-m3-24gb", ["mps"]),
        ("container-2cpu-2gb", []),
    ],
)
def test_gpus_have_the_names_that_torch_has_for_them(profile: str, names: list[str]) -> None:
    devices = seen(profiles.load(profile))

    assert [device.name for device in devices.devices.usable] == names
    assert devices.devices.passed == ()
    assert all(devices.devices.is_known(device) for device in devices.devices.usable)


def test_on_every_machine_that_is_recorded_a_gpu_has_no_more_room_than_memory() -> None:
    for name in profiles.names():
        machine = profiles.load(name)
        for device in seen(machine).devices.usable:
            assert 0 <= device.room_bytes < device.free_bytes <= device.total_bytes, name
            assert not device.unified or device.room_bytes <= machine.memory_budget_bytes, name


def test_what_other_programs_hold_now_is_no_room() -> None:
    machine = profiles.load("desktop-rtx-3090")
    [gpu] = machine.accelerators
    half = replace(machine, accelerators=(replace(gpu, free_bytes=12 * GIB),))
    [free], [beside] = seen(machine).devices.usable, seen(half).devices.usable

    assert free.room_bytes - beside.room_bytes == free.free_bytes - 12 * GIB
    assert beside.free_bytes == 12 * GIB


def test_what_cannot_be_computed_on_is_told_with_the_reason() -> None:
    machine = profiles.load("desktop-2x-rtx-3090-64gb")
    first, second = machine.accelerators
    barred = replace(machine, accelerators=(replace(first, usable=False), second))
    lacking = seen(machine, cuda=Advice("a build for processors", "make setup-tune"))

    assert [device.name for device in seen(barred).devices.usable] == ["cuda:0"]
    assert [(one.device, one.why) for one in seen(barred).devices.passed] == [("cuda", "unusable")]
    assert [(one.device, one.why, one.remedy) for one in lacking.devices.passed] == [
        ("cuda:0", "no_code", "make setup-tune"),
        ("cuda:1", "no_code", "make setup-tune"),
    ]
    with settings.override(devices=("CUDA1", "Vulkan0")):
        named = seen(machine).devices
    assert [device.name for device in named.usable] == ["cuda:1"]
    assert [(one.device, one.why) for one in named.passed] == [("cuda:0", "not_named")]


def test_a_gpu_that_is_asked_for_must_be_there() -> None:
    machine = profiles.load("desktop-rtx-3090")
    barred = replace(machine, accelerators=(replace(machine.accelerators[0], usable=False),))

    assert seen(machine).named("cuda:0").description == machine.accelerators[0].name
    with refuses(UsageError, param="device"):
        seen(machine).named("cuda:1")
    with refuses(UsageError, param="device"):
        seen(profiles.load("container-2cpu-2gb")).named("mps")
    with refuses(BackendUnavailable):
        seen(barred).named("cuda:0")
    beside = replace(machine, accelerators=(*machine.accelerators, Accelerator("rocm", "Raphael", usable=False)))
    assert seen(beside).named("cuda:0").description == machine.accelerators[0].name
    with refuses(BackendUnavailable):
        seen(beside).named("cuda:1")


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("code", ["nvidia", "amd"])
def test_of_two_makers_gpus_a_build_counts_those_that_it_has_code_for(code: str, first: int) -> None:
    """A ROCm build calls AMD's GPU cuda:0, whatever NVIDIA's is called by another one."""
    card = profiles.load("desktop-rtx-4090").accelerators[0]
    gpus = (card, Accelerator("rocm", "Raphael", 8 * GIB, 8 * GIB, unified=True))
    machine = replace(profiles.load("desktop-rtx-4090"), accelerators=(gpus[first], gpus[1 - first]))
    own, other = gpus if code == "nvidia" else gpus[::-1]
    devices = seen(machine, **{"amd" if code == "nvidia" else "nvidia": Advice("another build", "get one")})

    assert [(one.name, one.description) for one in devices.devices.usable] == [("cuda:0", own.name)]
    assert [(one.description, one.why, one.lacks) for one in devices.devices.passed] == [
        (other.name, "no_code", "another build")
    ]
    assert devices.named("cuda:0").description == own.name


@pytest.fixture
def asked(tmp_path: Path, toy: toy_tuner.ToyTuner) -> tuple[Path, Path]:
    """The base and the data."""
    vocabulary = byte_level(288) | {"tokenizer.chat_template": TEMPLATE}
    data = tmp_path / "mail.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return Decoder(keys={"context_length": 256}, vocabulary=vocabulary).write(tmp_path / "tiny.gguf"), data


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """From now on this machine is one with an RTX 3090, of which 20 GiB are free."""
    machine = profiles.load("desktop-rtx-3090")
    gpu = replace(machine.accelerators[0], free_bytes=20 * GIB)
    machine = replace(machine, accelerators=(gpu,))
    monkeypatch.setattr(plan, "probe", lambda **_: machine)
    return machine


def device_reasons(preview: TunePreview) -> list[Any]:
    return [one for one in preview.choice.reasons if isinstance(one, TuneDeviceChosen | TuneDevicePassed)]


def faster_there(toy: toy_tuner.ToyTuner) -> None:
    toy.rate_on = lambda *_: 9000.0  # type: ignore[method-assign]


def test_a_plan_says_what_lies_where(asked: tuple[Path, Path], toy: toy_tuner.ToyTuner, with_gpu: Machine) -> None:
    faster_there(toy)
    preview = plan_tuning(*asked, **OPTIONS)
    [chosen] = device_reasons(preview)

    assert (preview.choice.settings.device, chosen.device, chosen.asked) == ("cuda:0", "cuda:0", False)
    assert chosen.held_bytes == with_gpu.accelerators[0].vram_bytes - 20 * GIB
    assert (chosen.needed_bytes, chosen.host_bytes) == (7 * MIB, 2 * MIB)
    assert preview.choice.footprint.needed_bytes == 2 * MIB
    assert chosen.description in words.reason(chosen)
    here = plan_tuning(*asked, device="cpu", **OPTIONS)
    assert device_reasons(here) == [TuneDeviceChosen("cpu", asked=True)]


def test_the_processor_is_taken_where_it_is_no_slower(
    asked: tuple[Path, Path], toy: toy_tuner.ToyTuner, with_gpu: Machine
) -> None:
    passed, chosen = device_reasons(plan_tuning(*asked, device="auto", **OPTIONS))

    assert (passed.why, passed.device, chosen.device) == ("slower", "cuda:0", "cpu")
    assert device_reasons(plan_tuning(*asked, device="CUDA", **OPTIONS))[0].device == "cuda:0"


def test_without_a_gpu_one_that_is_named_is_refused(asked: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = profiles.load("container-2cpu-2gb")
    monkeypatch.setattr(plan, "probe", lambda **_: machine)
    [chosen] = device_reasons(plan_tuning(*asked, **OPTIONS))

    assert (chosen.device, chosen.n_passed) == ("cpu", 0)
    with refuses(UsageError, param="device"):
        plan_tuning(*asked, device="cuda", **OPTIONS)
    with refuses(UsageError, param="device"):
        plan_tuning(*asked, device="Vulkan0", **OPTIONS)


def test_a_library_without_code_for_it_is_told_before_it_is_missed(
    asked: tuple[Path, Path], toy: toy_tuner.ToyTuner, with_gpu: Machine
) -> None:
    toy.lacks = lambda kind: None if kind == "cpu" else Advice("a build for processors", "get another")  # type: ignore[method-assign]
    passed, chosen = device_reasons(plan_tuning(*asked, **OPTIONS))

    assert (passed.why, passed.lacks, passed.remedy) == ("no_code", "a build for processors", "get another")
    assert chosen.device == "cpu"
    assert plan_tuning(*asked, device="cuda", **OPTIONS).missing == "get another"
    with refuses(BackendUnavailable):
        tune(*asked, device="cuda", **OPTIONS)


def test_what_a_gpu_does_not_hold_is_refused_with_what_would_fit(
    asked: tuple[Path, Path], toy: toy_tuner.ToyTuner, monkeypatch: pytest.MonkeyPatch, with_gpu: Machine
) -> None:
    footprint = toy.footprint

    def large(*of: Any) -> Any:
        held = footprint(*of)
        return msgspec.structs.replace(held, weights_bytes=of[1].rank * GIB) if held.on_device else held

    toy.footprint = large  # type: ignore[method-assign]
    with refuses(NothingFits):
        plan_tuning(*asked, device="cuda", **OPTIONS | {"rank": 64})
    with refuses(NothingFits):
        plan_tuning(*asked, device="cuda", **OPTIONS | {"rank": 64, "max_memory": "1KiB"})


def test_a_tuning_goes_on_on_another_device_and_says_that_bits_differ(
    asked: tuple[Path, Path], toy: toy_tuner.ToyTuner, with_gpu: Machine
) -> None:
    """The toy computes on the processor whatever it is told: what counts here is what the core makes of it."""
    faster_there(toy)
    first, second, third = list[TuneEvent](), list[TuneEvent](), list[TuneEvent]()

    def until_step(at: int, events: list[TuneEvent], **options: Any) -> None:
        stop = TuneStop()

        def tell(event: TuneEvent) -> None:
            events.append(event)
            if isinstance(event, TuneProgress) and event.step >= at:
                stop.ask()

        run_planned(planned_by_sdk(*asked, **OPTIONS | options), tell, stop)

    until_step(2, first)
    until_step(4, second)
    until_step(10**6, third, device="cpu")
    starts = [events[0] for events in (first, second, third)]

    assert all(isinstance(start, TuneStarted) for start in starts)
    assert [start.exact for start in starts] == [True, True, False]
    assert 0 < starts[1].first_step <= starts[2].first_step


def test_a_tuner_that_knows_no_gpus_computes_on_the_processor(
    asked: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, with_gpu: Machine
) -> None:
    """One that was written before there were devices, or does not care."""
    names = ("name", "methods", "missing", "supports", "footprint", "rate", "open")
    plain = type("Plain", (), {name: getattr(toy_tuner.ToyTuner, name) for name in names})
    monkeypatch.setattr(plugins(), "_tuners", {"toy": plain()})
    passed, chosen = device_reasons(plan_tuning(*asked, **OPTIONS))

    assert (passed.why, passed.device, chosen.device) == ("no_code", "cuda:0", "cpu")
    with refuses(BackendUnavailable):
        tune(*asked, device="cuda", **OPTIONS)


@pytest.mark.parametrize("device", ["cpu", None])
def test_what_a_gpu_began_goes_on_on_the_processor_only_where_ram_holds_its_settings(device: str | None) -> None:
    """Those stay, and were chosen for another memory."""
    tuner, machine = toy_tuner.ToyTuner(), replace(profiles.load("desktop-rtx-4090"), accelerators=())
    tuner.footprint = lambda _, run, __: TuneFootprint(*[run.batch * GIB] * 9, on_device=run.device != "cpu")  # type: ignore[method-assign]
    examples = [Example(np.zeros(60, np.int32), np.arange(60) >= 30, 1)]
    begun = TuneSettings(batch=32, device="cuda:0")

    def goes_on(begun: TuneSettings | None) -> TuneChoice:
        base = Artifact("gguf", (), "m", "Q4_0")
        return chosen(tuner, base, examples, machine, TuneOptions(device=device), begun=begun)

    assert goes_on(None).fits
    assert goes_on(msgspec.structs.replace(begun, batch=2)).footprint.weights_bytes == 2 * GIB
    with refuses(NothingFits):
        goes_on(begun)
