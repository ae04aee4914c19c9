"""What the quantizer would make of one file: which tensors it touches, and what stands in its way."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gguf_writer import F16, F32, Q8_0, Gguf, Tensor, model_keys

from edgellm.estimate import file_recipe, quants
from edgellm.formats.gguf import reader


def read(folder: Path, *tensors: Tensor, **keys: object) -> reader.GgufModel:
    """A model of one layer with these tensors beside its embedding table."""
    table = Tensor("token_embd.weight", (256, 16), F16, 256 * 16 * 2)
    return reader.read_model(Gguf(model_keys(**keys), [table, *tensors]).write(folder / "x.gguf"))


def half(name: str, *dims: int) -> Tensor:
    size = 2
    for dim in dims:
        size *= dim
    return Tensor(name, dims, F16, size)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("blk.0.ffn_gate_inp.weight", (256, 8)), ("blk.0.attn_q.bias", (256, 2)),
        ("blk.0.ssm_conv1d.weight", (256, 4)), ("blk.0.ssm_a", (256, 4)), ("position_embd.weight", (256, 4)),
        ("blk.0.attn_q.weight", (256,)), ("blk.0.attn_q.weight", (256, 1)), ("scalar.weight", ()),
    ],
)  # fmt: skip
def test_what_is_never_quantized_keeps_its_type(name: str, dims: tuple[int, ...], tmp_path: Path) -> None:
    planned = file_recipe.plan(read(tmp_path, half(name, *dims)), "Q4_K_M")
    kept = next(p for p in planned.tensors if p.tensor.name == name)

    assert (kept.type, kept.changes) == ("F16", False)
    assert planned.impossible == ()


def test_a_norm_keeps_its_type(tmp_path: Path) -> None:
    norm = Tensor("blk.0.attn_norm.weight", (256, 2), F32, 256 * 2 * 4)
    planned = file_recipe.plan(read(tmp_path, norm), "Q4_K_M")

    assert [(p.type, p.changes) for p in planned.tensors if p.tensor.name == norm.name] == [("F32", False)]


def test_bytes_are_counted_with_and_without_padding(tmp_path: Path) -> None:
    planned = file_recipe.plan(read(tmp_path, half("blk.0.attn_q.weight", 256, 3)), "Q4_K_M")

    # The table is tied, and kept at Q6_K.
    assert [(p.tensor.name, p.type) for p in planned.tensors] == [
        ("token_embd.weight", "Q6_K"),
        ("blk.0.attn_q.weight", "Q4_K"),
    ]
    assert planned.tensor_bytes == 16 * 210 + 3 * 144
    assert planned.data_bytes == 16 * 210 + 448


def test_what_is_quantized_already_is_named(tmp_path: Path) -> None:
    known = read(
        tmp_path, Tensor("blk.0.attn_q.weight", (256, 2), Q8_0, 544), Tensor("output_norm.weight", (4,), F32, 16)
    )

    assert [p.tensor.name for p in file_recipe.plan(known, "Q4_0").requantized] == ["blk.0.attn_q.weight"]
    assert file_recipe.plan(known, "Q4_0").lossy == ()
    assert file_recipe.plan(known, "Q8_0").requantized == ()


def test_an_importance_matrix_is_needed_for_tensors_not_for_tables(tmp_path: Path) -> None:
    known = read(tmp_path, half("blk.0.attn_q.weight", 256, 2), half("blk.0.attn_v.weight", 192, 2))
    needed = {quant: file_recipe.plan(known, quant).need_imatrix for quant in ("IQ2_XS", "IQ4_XS", "Q2_K", "Q2_K_S")}

    assert {quant: [p.tensor.name for p in found] for quant, found in needed.items()} == {
        # The other's rows are no multiple of 256, so it becomes IQ4_NL.
        "IQ2_XS": ["blk.0.attn_q.weight"], "IQ4_XS": [], "Q2_K": [], "Q2_K_S": ["blk.0.attn_q.weight"],
    }  # fmt: skip


def test_a_row_that_no_type_divides_is_impossible_only_where_the_quantizer_gives_up(tmp_path: Path) -> None:
    known = read(tmp_path, half("blk.0.attn_q.weight", 100, 2))

    assert file_recipe.plan(known, "Q4_K_M").tensors[1].type == "F16"
    assert file_recipe.plan(known, "Q4_K_M").impossible == ()
    assert [p.row for p in file_recipe.plan(known, "Q1_0").impossible] == [100]


def test_a_quantization_of_a_plugin_is_predicted_by_the_nearest_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its types are its own to know: nothing is done already, and no matrix is demanded."""
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    quants.register(quants.Quant("ACME", "legacy", 2.4, "IQ2_XXS", "...", "..."))
    known = read(tmp_path, Tensor("blk.0.attn_q.weight", (256, 2), 16, 132), half("blk.0.attn_k.weight", 256, 2))
    planned, nearest = file_recipe.plan(known, "ACME"), file_recipe.plan(known, "IQ2_XXS")

    assert (planned.quant, planned.like, planned.tensor_bytes) == ("ACME", "IQ2_XXS", nearest.tensor_bytes)
    assert [len([p for p in one.tensors if p.changes]) for one in (planned, nearest)] == [3, 2]
    assert [len(one.need_imatrix) for one in (planned, nearest)] == [0, 2]
    assert nearest.like == ""
