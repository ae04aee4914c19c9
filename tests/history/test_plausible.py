"""Which rates are refused, as they are measured and as they are read."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from edgellm.history import calibrator
from edgellm.history.plausible import problem_in, problem_in_trials
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.device_trial import DeviceTrial

RATES = {("Q4_K", 1): 40.0, ("Q4_K", 2): 80.0}
WHOLE = Calibration(
    RATES, {("INT4", 1): 160.0, ("INT4", 2): 1e6}, attention={("f16", 2): 1e-6}, attention_by_head={("f16", 64, 2): 7},
    attention_apart_s={("f16", 64, 8, 2): 0.0}, row_s={("Q4_K", 2): 0}, layer_s={2: 1e-5}, element_s={1: 1e3},
    occasions={2: Occasion(taken=0.0, waited=1.0)}, scatter=0.5,
)  # fmt: skip
TRIAL = DeviceTrial("Q4_K", 137_000_000, 4, 2048, 8192, 32, 8, 64, 256, 500.0, 24, 9000.0, 512)


def test_what_a_machine_can_have_has_no_problem() -> None:
    assert problem_in(WHOLE) == ""
    assert problem_in(Calibration({("F32", 3): 1.0}, {("F32", 3): 1.0})) == "", "nor with one number of threads"
    assert problem_in_trials((TRIAL,)) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"decode": {}}, "decode is empty, rates of one token at a time are expected"),
        ({"decode": {}, "prefill": {}}, "decode is empty, rates of one token at a time are expected"),
        ({"prefill": {}}, "prefill has no rates with 1 thread, as decode has them"),
        ({"prefill": {("Q4_K", 1): 1.0}}, "prefill has no rates with 2 threads, as decode has them"),
        ({"decode": RATES | {("Q6_K", 2): float("nan")}}, "decode['Q6_K', 2] is nan, more than 0 is expected"),
        ({"prefill": RATES | {("Q4_K", 1): -1.0}}, "prefill['Q4_K', 1] is -1.0, more than 0 is expected"),
        ({"attention": {("f16", 2): 0}}, "attention['f16', 2] is 0, more than 0 is expected"),
        ({"attention": {("f16", 2): float("inf")}}, "attention['f16', 2] is inf, 1e-06 to 1e+06 is expected"),
        ({"decode": {("Q4_K", 1): 1e308}}, "decode['Q4_K', 1] is 1e+308, 1e-06 to 1e+06 is expected"),
        ({"decode": {("Q4_K", 1): 10**400}}, f"decode['Q4_K', 1] is 1{'0' * 79}, 1e-06 to 1e+06 is expected"),
        ({"layer_s": {2: -1e-9}}, "layer_s[2] is -1e-09, more than 0 is expected"),
        ({"row_s": {("Q4_K", 2): 1e4}}, "row_s['Q4_K', 2] is 10000.0, 1e-30 to 1000 is expected"),
        (
            {"attention_by_head": {("f16", 0, 2): 7.0}},
            "attention_by_head['f16', 0, 2] has a number in its key that no machine has, 1 to 65536 is expected",
        ),
        ({"scatter": float("nan")}, "scatter is nan, 0 to 1 is expected"),
        ({"occasions": {1: Occasion(waited=1.5)}}, "occasions[1].waited is 1.5, 0 to 1 is expected"),
    ],
)
def test_what_no_machine_has_is_named_with_its_place(changes: dict[str, object], problem: str) -> None:
    assert problem_in(dataclasses.replace(WHOLE, **changes)) == problem


@pytest.mark.parametrize(
    ("trials", "problem"),
    [
        ((), "there is nothing, one DeviceTrial or more is expected"),
        ((TRIAL, 5), "[1] is 5, a DeviceTrial is expected"),
        ((TRIAL, replace(TRIAL, decode_tok_s=float("nan"))), "[1].decode_tok_s is nan, more than 0 is expected"),
        ((replace(TRIAL, depth=0),), "[0].depth is 0, more than 0 is expected"),
    ],
)
def test_so_is_that_of_a_gpu(trials: tuple[object, ...], problem: str) -> None:
    assert problem_in_trials(trials) == problem


def test_types_that_were_not_measured_with_one_thread_are_compared_with_nothing() -> None:
    alone = Calibration({("Q4_K", 2): 80.0}, {("Q4_K", 2): 80.0})

    assert calibrator.believable(alone) == alone
