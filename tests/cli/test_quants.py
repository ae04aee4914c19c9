"""`edgellm quants` as a person meets it."""

from __future__ import annotations

import json

from edgellm.estimate.quants import QUANTS


def test_every_name_is_listed_with_what_it_is_for(planner) -> None:
    output = planner("quants").stdout

    for name in QUANTS:
        assert f"\n{name} " in output
    assert "the default balance of size, speed and quality" in output
    assert "not a measurement of this one" in output


def test_one_name_is_explained_in_any_case(planner) -> None:
    output = planner("quants", "q5_k_m").stdout

    assert output.startswith("Q5_K_M: 5 bits, value projections and some down projections at 6\n")
    for part in ("bits       5.7", "at 70B", "best for   small models", "this CPU", "the weights per second of Q4_K"):
        assert part in output


def test_json_says_the_same_for_programs(planner) -> None:
    report = json.loads(planner("quants", "TQ1_0", "--json").stdout)
    row = report["quants"][0]

    assert report["schema"] == 1
    assert report["basis"].startswith("prior")
    assert (row["name"], row["kind"], row["base_type"]) == ("TQ1_0", "ternary", "TQ1_0")
    assert set(row["kept"]) == {"1B", "8B", "70B"}
    assert len(json.loads(planner("quants", "--json").stdout)["quants"]) == len(QUANTS)


def test_an_unknown_name_is_an_error_with_close_ones(planner_process) -> None:
    done = planner_process("quants", "Q4_K_X", code=2)

    assert "no quantization named 'Q4_K_X'" in done.stderr
    assert "Q4_K_M" in done.stderr
