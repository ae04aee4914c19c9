"""Which device a tuning computes on: of machines that are described, since the rules are pure."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from support.refusals import refuses

from edgellm.adaptation.devices import SeenDevices, on, place
from edgellm.adaptation.example import Example
from edgellm.adaptation.rules import TuneQuestion, TunerFormulas
from edgellm.errors import UsageError
from edgellm.types.tune_device import CPU, TuneDevice, device_name
from edgellm.types.tune_reason import TuneChoice, TuneDeviceChosen, TuneDevicePassed
from edgellm.types.tuning import TuneFootprint, TuneSettings, TuneSize

MB = 10**6
GB = 10**9
EXAMPLES = [Example(np.zeros(60, np.int32), np.arange(60) >= 30, line) for line in range(1, 801)]
RATES = {CPU: 100.0, "cuda:0": 5000.0, "cuda:1": 9000.0, "mps": 900.0, "xpu:0": 50.0}


def footprint(settings: TuneSettings, size: TuneSize) -> TuneFootprint:
    trained = 200_000 * settings.rank
    kept = settings.batch * min(size.longest, settings.length) * MB
    return TuneFootprint(
        60 * MB if settings.quantized else 400 * MB,
        4 * MB,
        4 * trained,
        4 * trained,
        8 * trained,
        kept // 8 if settings.checkpointing else kept,
        16 * MB,
        MB,
        100 * MB,
        on_device=settings.device != CPU,
        spare_bytes=50 * MB * (settings.device != CPU),
        copies_bytes=12 * trained * (settings.device != CPU),
    )


FORMULAS = TunerFormulas(footprint, lambda settings: RATES[settings.device])


def gpu(name: str = "cuda:0", *, room: int = 20 * GB, unified: bool = False) -> TuneDevice:
    return TuneDevice(name, f"the {name}", 24 * GB, 22 * GB, room, unified)


def placed(*gpus: TuneDevice, budget: int = 100 * GB, **fields: Any) -> TuneChoice:
    asked = fields.pop("asked", {})
    seen = SeenDevices(gpus, fields.pop("passed", ()), fields.pop("is_known", lambda _: True))
    return place(TuneQuestion(EXAMPLES, budget, 8192, asked=asked), FORMULAS, seen, **fields)


def reasons(choice: TuneChoice) -> tuple[list[tuple[str, str]], TuneDeviceChosen]:
    """(GPUs that are passed over with why, where it computes)."""
    *passed, taken = (one for one in choice.reasons if isinstance(one, TuneDevicePassed | TuneDeviceChosen))
    assert isinstance(taken, TuneDeviceChosen)
    return [(one.device, one.why) for one in passed if isinstance(one, TuneDevicePassed)], taken


def test_without_a_gpu_it_is_the_processor_and_that_is_said() -> None:
    choice = placed()

    assert (choice.settings.device, choice.device, choice.footprint.device_bytes) == (CPU, None, 0)
    assert reasons(choice) == ([], TuneDeviceChosen(CPU, asked=False))
    assert choice.reasons[0] == TuneDeviceChosen(CPU, asked=False)
    assert msgspec.json.decode(msgspec.json.encode(choice), type=TuneChoice) == choice


def test_of_gpus_that_hold_it_the_fastest_is_taken_with_its_memory_and_ram_apart() -> None:
    choice = placed(gpu("cuda:0"), gpu("cuda:1"))
    _, taken = reasons(choice)
    held = choice.footprint

    assert choice.settings.device == "cuda:1"
    assert (choice.device, choice.tok_s) == (gpu("cuda:1"), 9000.0)
    assert (taken.device, taken.asked, taken.held_bytes, taken.room_bytes) == ("cuda:1", False, 2 * GB, 20 * GB)
    assert (taken.needed_bytes, taken.host_bytes) == (held.device_bytes, held.needed_bytes)
    assert held.needed_bytes == held.data_bytes + held.process_bytes + held.copies_bytes
    assert held.device_bytes + held.needed_bytes == sum(
        getattr(held, name) for name in held.__struct_fields__ if name.endswith("_bytes")
    )
    assert msgspec.json.decode(msgspec.json.encode(choice), type=TuneChoice) == choice


@pytest.mark.parametrize(
    ("device", "options", "why"),
    [
        (gpu(room=150 * MB), {}, "no_room"),
        (gpu("xpu:0"), {}, "slower"),
        (gpu(), {"is_known": lambda _: False}, "unknown_speed"),
        # It would fit with a smaller rank, which learns less.
        (gpu(room=180 * MB), {}, "no_room"),
        # RAM beside it holds no copies of what is trained.
        (gpu(), {"budget": 101 * MB, "asked": {"rank": 4}}, "no_room"),
    ],
)
def test_a_gpu_that_is_no_better_is_passed_over_with_the_reason(
    device: TuneDevice, options: dict[str, Any], why: str
) -> None:
    choice = placed(device, **options)
    passed, taken = reasons(choice)

    assert (choice.settings.device, taken.device, taken.n_passed) == (CPU, CPU, 1)
    assert passed == [(device.name, why)]


def test_what_was_passed_over_before_is_told_too() -> None:
    lacking = TuneDevicePassed("cuda:0", "a GPU", "no_code", lacks="a CPU build", remedy="another one")
    choice = placed(passed=(lacking,))

    assert choice.reasons[0] == lacking
    assert reasons(choice) == ([("cuda:0", "no_code")], TuneDeviceChosen(CPU, asked=False, n_passed=1))


def test_where_the_processor_holds_nothing_a_gpu_may_learn_less() -> None:
    choice = placed(gpu(room=180 * MB), budget=170 * MB)

    assert choice.fits
    assert choice.settings.device == "cuda:0"
    assert choice.settings.rank < 16


def test_a_memory_that_is_shared_holds_both() -> None:
    alone, together = gpu("mps", room=600 * MB), gpu("mps", room=600 * MB, unified=True)
    apart, shared = placed(alone, budget=10 * GB), placed(together, budget=10 * GB)

    assert apart.settings.device == shared.settings.device == "mps"
    assert apart.footprint.device_bytes > shared.footprint.device_bytes
    assert shared.needed_bytes == shared.footprint.device_bytes + shared.footprint.needed_bytes <= 600 * MB
    assert reasons(shared)[1].held_bytes == 0
    assert not place(TuneQuestion(EXAMPLES, 200 * MB, 8192), FORMULAS, SeenDevices((together,))).device


def test_what_was_asked_for_is_done_or_refused_with_what_would_fit() -> None:
    question = TuneQuestion(EXAMPLES, 10 * GB, 8192, asked={"rank": 64})
    slow, small = (on(device, question, FORMULAS) for device in (gpu("xpu:0"), gpu(room=180 * MB)))

    assert (slow.fits, slow.settings.device, reasons(slow)[1].asked) == (True, "xpu:0", True)
    assert not small.fits
    assert small.settings.device == "cuda:0"
    assert small.instead is not None
    assert (small.instead.device, small.instead.rank) == ("cuda:0", 8)


def test_what_was_begun_goes_on_where_it_began() -> None:
    on_gpu = TuneSettings(rank=16, batch=8, device="cuda:0")
    plenty = placed(gpu("cuda:0"), gpu("cuda:1"), begun=on_gpu)
    begun_here = placed(gpu("cuda:0"), begun=msgspec.structs.replace(on_gpu, device=CPU))
    small = placed(gpu("cuda:0", room=100 * MB), begun=on_gpu)

    assert plenty.settings.device == "cuda:0"
    assert reasons(plenty)[0] == [("cuda:1", "began_elsewhere")]
    assert begun_here.settings.device == CPU
    assert reasons(begun_here)[0] == [("cuda:0", "began_elsewhere")]
    assert small.settings.device == CPU
    assert reasons(small)[0] == [("cuda:0", "no_room")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cpu", "cpu"), ("CUDA", "cuda:0"), ("cuda:1", "cuda:1"), ("CUDA1", "cuda:1"), ("ROCm0", "cuda:0"),
        ("mps", "mps"), ("Metal", "mps"), ("MTL0", "mps"), ("xpu", "xpu:0"), ("SYCL2", "xpu:2"), (" xpu:3 ", "xpu:3"),
    ],
)  # fmt: skip
def test_a_device_has_the_name_that_torch_has_for_it(text: str, name: str) -> None:
    assert device_name(text) == name
    assert device_name(name) == name


@pytest.mark.parametrize(
    "text", ["", "Vulkan0", "cuda:", "cuda:-1", "cuda:x", "cpu:1", "mps:2", "gpu", "cuda:12345", "x" * 500]
)
def test_what_names_no_device_is_refused(text: str) -> None:
    with refuses(UsageError, param="device"):
        device_name(text)


def test_settings_hold_whole_names() -> None:
    for name in ("cuda", "CUDA0", "gpu"):
        with refuses(UsageError):
            TuneSettings(device=name)
