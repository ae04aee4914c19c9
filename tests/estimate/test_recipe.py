"""The recipe against llama.cpp's own snapshots of what its quantizer decides, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm.estimate import recipe
from edgellm.estimate.tensor_types import for_row

DATA = json.loads((Path(__file__).parent / "llama_cpp_snapshots.json").read_text())["models"]
DENSE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
MOE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
CASES = [(model, mix) for model in DATA for mix in DATA[model]["mixes"]]


def expand(runs: str) -> list[str]:
    """`"2*Q6_K Q4_K"` -> `["Q6_K", "Q6_K", "Q4_K"]`."""
    out: list[str] = []
    for run in runs.split():
        count, _, kind = run.rpartition("*")
        out += [kind] * int(count or 1)
    return out


def rows_of(dims: dict[str, int], model: str) -> dict[str, int]:
    """Row length of each tensor: what a block must divide."""
    rows = dict.fromkeys((*DENSE, *MOE, "output", "token_embd"), dims["n_embd"])
    rows["ffn_down"] = rows["ffn_down_exps"] = dims["n_ff"]
    if model == "gpt-oss-120b":
        rows["attn_output"] = 64 * dims["n_head"]
    return rows


def is_tied(model: str) -> bool:
    """Whether the snapshot has no output table of its own."""
    return all("output" not in types for types in DATA[model]["mixes"].values())


@pytest.mark.parametrize(("model", "mix"), CASES)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(model: str, mix: str) -> None:
    dims, expected = DATA[model]["dims"], DATA[model]["mixes"][mix]
    quant = {"MXFP4_MOE": "MXFP4"}.get(mix, mix)
    n, rows = dims["n_layer"], rows_of(dims, model)
    traits = recipe.Traits(
        gqa=dims["n_head"] // dims["n_head_kv"],
        n_expert=dims.get("n_expert", 0),
        is_70b="70b" in model,
        tied=is_tied(model),
        head_row=dims["n_embd"],
    )
    for role in MOE if "n_expert" in dims else DENSE:
        wanted = expand(expected[role]) if role in expected else [expected["base"]] * n
        got = [for_row(recipe.tensor_type(role, i, n, quant, traits), rows[role]) for i in range(n)]

        assert got == wanted, role
    for role in ("token_embd",) if is_tied(model) else ("output", "token_embd"):
        got_one = for_row(recipe.tensor_type(role, 0, n, quant, traits), rows[role])

        assert got_one == expected.get(role, expected["base"]), role


@pytest.mark.parametrize("quant", sorted(recipe.BASE_TYPE))
@pytest.mark.parametrize("n", [1, 7, 32, 80])
def test_counting_types_gives_what_asking_each_layer_gives(quant: str, n: int) -> None:
    for traits in (recipe.Traits(), recipe.Traits(8, 8, True), recipe.Traits(4, 128), recipe.Traits(4, imatrix=True)):
        for role in {*DENSE, *MOE, "attn_qkv", "other", "never"}:
            counted = dict(recipe.layer_types(role, range(n), n, quant, traits))
            asked = [recipe.tensor_type(role, i, n, quant, traits) for i in range(n)]

            assert counted == {kind: asked.count(kind) for kind in asked}, role


def test_a_tied_table_is_stored_as_the_output() -> None:
    assert recipe.tensor_type("token_embd", 0, 1, "Q4_K_M", recipe.Traits(tied=True, head_row=1024)) == "Q6_K"
    assert recipe.tensor_type("token_embd", 0, 1, "Q4_K_M", recipe.Traits(tied=False, head_row=1024)) == "Q4_K"
    assert recipe.tensor_type("token_embd", 0, 1, "Q4_K_M", recipe.Traits(tied=True, head_row=640)) == "Q8_0"


@pytest.mark.parametrize(
    ("kind", "row", "got"),
    [("Q4_K", 576, "Q5_0"), ("Q5_K", 576, "Q5_1"), ("Q6_K", 576, "Q8_0"), ("IQ4_XS", 896, "IQ4_NL"),
     ("Q2_K", 896, "Q4_0"), ("TQ2_0", 896, "Q4_0"), ("Q4_0", 100, "F16"), ("Q4_K", 100, "F16"), ("Q4_K", 512, "Q4_K")],
)  # fmt: skip
def test_short_rows_fall_back(kind: str, row: int, got: str) -> None:
    assert for_row(kind, row) == got
