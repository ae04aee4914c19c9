"""What a trainer's file says, by the formulas of `contract.tuner`, as factors; in numpy's float64."""

import numpy as np
import pytest
from support.random_lora import added
from support.refusals import refuses
from support.toy_llama import toy_weights, write_toy

from edgellm.adaptation.learned import learned
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.safetensors.writer import write_safetensors
from edgellm.types.tuning import TuneSettings

Q, V = "blk.0.attn_q.weight", "blk.1.attn_v.weight"  # 64 x 64 and 32 x 64
RANK, ALPHA = 4, 6.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return reader.read_model(write_toy(tmp_path_factory.mktemp("base") / "m.gguf", toy_weights()))


def values(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(0, 1, shape).astype(np.float32)


def parts_of(method):
    """A file of each method, and what it says is added to a matrix."""
    arrays, wanted = {}, {}
    shared = {"vera_a": values(RANK, 96), "vera_b": values(96, RANK)}
    for name, rows in ((Q, 64), (V, 32)):
        a, b = values(RANK, 64), values(rows, RANK)
        start_a, start_b = values(RANK, 64, seed=1), values(rows, RANK, seed=1)
        d, row = values(RANK, seed=2), values(rows, seed=2)
        wide = [array.astype(np.float64) for array in (a, b, start_a, start_b, d, row, *shared.values())]
        wa, wb, wsa, wsb, wd, wrow, va, vb = wide
        scale = ALPHA / RANK
        if method == "vera":
            arrays |= shared | {f"{name}.vera_d": d, f"{name}.vera_b": row}
            wanted[name] = np.diag(wrow) @ vb[:rows] @ np.diag(wd) @ va[:, :64]
            continue
        arrays |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
        wanted[name] = (ALPHA / np.sqrt(RANK) if method == "rslora" else scale) * (wb @ wa)
        if method == "delta-lora":
            arrays |= {f"{name}.start_a": start_a, f"{name}.start_b": start_b}
            wanted[name] = scale * (3.0 * (wb @ wa) - 2.0 * (wsb @ wsa))
        if method == "dora":
            arrays[f"{name}.dora_m"] = np.abs(row)
    return arrays, wanted


def settings(method):
    return TuneSettings(method=method, rank=RANK, alpha=ALPHA, delta_scale=2.0)


@pytest.mark.parametrize("method", ["lora", "rslora", "lora-fa", "lora+", "vera", "delta-lora", "dora"])
def test_factors_are_those_of_the_method(method, model, tmp_path):
    arrays, wanted = parts_of(method)
    write_safetensors(tmp_path / "x", arrays)

    lora = learned(tmp_path / "x", settings(method), model)

    assert list(lora.factors) == [Q, V]
    for name, change in wanted.items():
        assert np.abs(added(lora, name) - change).max() <= 1e-6 * max(1.0, np.abs(change).max())
    assert {name: pair.rank for name, pair in lora.factors.items()} == dict.fromkeys(
        (Q, V), 2 * RANK if method == "delta-lora" else RANK
    )
    assert list(lora.lengths) == ([Q, V] if method == "dora" else [])


def test_delta_lora_whose_base_never_moved_is_lora(model, tmp_path):
    arrays, wanted = parts_of("lora")
    write_safetensors(tmp_path / "x", arrays)

    lora = learned(tmp_path / "x", settings("delta-lora"), model)

    assert all(np.abs(added(lora, name) - change).max() < 1e-5 for name, change in wanted.items())


def test_a_whole_model_is_what_it_says(model, tmp_path):
    arrays = {Q: values(64, 64), "output_norm.weight": values(64), "token_embd.weight": values(48, 64)}
    write_safetensors(tmp_path / "x", arrays)

    lora = learned(tmp_path / "x", settings("full"), model)

    assert {name: array.tobytes() for name, array in lora.replaced.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    assert lora.shares_table


@pytest.mark.parametrize(
    ("method", "name", "changed", "kind"),
    [
        ("lora", f"{V}.lora_b", None, BadArtifact),
        ("lora", f"{V}.lora_b", values(32, 5), BadArtifact),
        ("lora", f"{V}.lora_a", np.full((RANK, 64), np.inf, np.float32), BadArtifact),
        ("lora", f"{V}.lora_a", values(RANK, 64).astype(np.float64), BadArtifact),
        ("lora", "blk.9.attn_q.weight.lora_a", values(RANK, 64), UnsupportedArtifact),
        ("lora", f"{V}.lora_c", values(RANK, 64), UnsupportedArtifact),
        ("lora", "output_norm.weight.lora_a", values(RANK, 64), UnsupportedArtifact),
        ("vera", "vera_a", None, BadArtifact),
        ("vera", "vera_b", values(63, RANK), BadArtifact),
        ("dora", f"{V}.dora_m", None, BadArtifact),
        ("delta-lora", f"{V}.start_b", None, BadArtifact),
        ("full", f"{V}", None, BadArtifact),
    ],
)
def test_a_file_that_is_not_of_the_tuning_is_refused(method, name, changed, kind, model, tmp_path):
    arrays = parts_of("lora" if method == "full" else method)[0] | {name: changed}
    write_safetensors(tmp_path / "x", {key: array for key, array in arrays.items() if array is not None})

    with refuses(kind):
        learned(tmp_path / "x", settings(method), model)
