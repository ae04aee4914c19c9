"""Calibrations on their way to another machine: what one states, another reads, and believes nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.history import calibrations
from edgellm.types.calibration import Calibration, Occasion

RATES = Calibration(
    {("Q4_K", 2): 40.0, ("Q6_K", 2): 30.0}, {("Q4_K", 2): 120.0, ("Q6_K", 2): 200.0},
    attention={("f16", 2): 10.0}, attention_by_head={("f16", 64, 2): 7.0},
    attention_apart_s={("f16", 64, 8, 2): 5e-8, ("q8_0", 64, 8, 2): 0.0},
    attention_prefill={("f16", 2): 30.0}, row_s={("Q4_K", 2): 0.0},
    layer_s={2: 1e-5}, element_s={2: 1e-9}, element_prefill_s={2: 0.0},
    scatter=0.03, build="b1", date="2026-11-24",
    occasions={2: Occasion("2026-11-24", taken=0.63), 4: Occasion("2026-11-25", 0.02, 0.01, 0.4)},
)  # fmt: skip
Table = dict[str, Any]


@pytest.mark.parametrize("form", ["json", "toml"])
def test_another_machine_reads_what_one_states(form: str) -> None:
    table = {"gguf": calibrations.stated(RATES)}
    carried = json.loads(json.dumps(table)) if form == "json" else tomllib.loads(tomli_w.dumps(table))

    assert calibrations.read(carried, "box.toml") == {"gguf": RATES}


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: 3,
        lambda table: {},
        lambda table: table | {"rates": table["rates"] | {"decode": {"Q4_K": {"2": -1.0}}}},
        lambda table: table | {"rates": table["rates"] | {"decode": {"Q4_K": {"many": 1.0}}}},
        lambda table: table | {"rates": {}},
        lambda table: table | {"scatter": 7.0},
    ],
    ids=["a number", "empty", "negative", "a word", "no rates", "no share"],
)
def test_what_a_stranger_states_is_checked(damage: Callable[[Table], Any]) -> None:
    with refuses(UsageError, param="calibrations"):
        calibrations.read({"gguf": damage(calibrations.stated(RATES))}, "box.toml")
