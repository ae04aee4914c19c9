"""Memory terms against the reference vectors, to the byte, and against measured buffers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.catalog.lookup import catalog
from edgellm.estimate import footprint
from edgellm.machine import Cpu, Machine, Memory
from edgellm.plan import Footprint
from edgellm.units import MIB

VECTORS = json.loads((Path(__file__).parent / "kv_vectors.json").read_text())["kv"]


def shape(name: str):
    found = catalog()[name].shape
    assert found is not None
    return found


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["id"])
def test_cache_bytes_equal_the_reference(vector: dict[str, int]) -> None:
    expected = {key: value for key, value in vector.items() if key != "id"}
    got = {
        f"kv_{kind}_{ctx}": footprint.kv_bytes(shape(vector["id"]), ctx, 1, kind)
        for kind in ("f16", "q8_0")
        for ctx in (4096, 8192, 32768)
    }

    assert got == expected


def test_a_sliding_window_is_kept_for_every_slot() -> None:
    gemma = shape("gemma-3-270m")
    one, four = footprint.kv_bytes(gemma, 8192, 1), footprint.kv_bytes(gemma, 8192, 4)

    # 1 slot: 512 + 512 -> 1024 local cells; 4 slots: 4 * 512 + 512 -> 2560.
    assert one == 3072 * 8192 + 15360 * 1024
    assert four == 3072 * 32768 + 15360 * 2560


def test_recurrent_state_grows_with_slots_and_not_with_context() -> None:
    qwen = shape("qwen3.5-4b")
    at = {(ctx, slots): footprint.kv_bytes(qwen, ctx, slots) for ctx in (4096, 8192) for slots in (1, 2)}

    assert at[8192, 1] - at[4096, 1] == 4096 * qwen.kv_full_bytes
    assert at[4096, 2] - 2 * 4096 * qwen.kv_full_bytes == 2 * qwen.recurrent_bytes


@pytest.mark.parametrize(
    ("name", "measured_mib"),
    # llama.cpp's log at ubatch 512: 514.5 MiB for 262k tokens of vocabulary, 98.25 for SmolLM2 (research notes, B4).
    [("gemma-3-270m", 514.5), ("smollm2-135m-instruct", 98.25)],
)
def test_compute_buffers_are_near_the_measured_ones(name: str, measured_mib: float) -> None:
    assert footprint.compute_bytes(shape(name), 8192) / MIB == pytest.approx(measured_mib, abs=6)


def test_most_of_a_compute_buffer_is_reserved_and_never_touched() -> None:
    found = footprint.footprint(shape("gemma-3-270m"), 246587904, 8192)

    assert found.allocated_bytes - found.resident_bytes > 450 * MIB
    assert found.weights_bytes == 246587904
    assert found.kv_bytes == 40894464


def test_windows_is_charged_for_what_is_reserved() -> None:
    found = footprint.footprint(shape("gemma-3-270m"), 246587904, 8192)

    def machine(os: str) -> Machine:
        return Machine("m", "m", Cpu("x86_64"), Memory(8 * 1024**3), os=os)

    assert footprint.counted_bytes(found, machine("windows")) == found.allocated_bytes
    assert footprint.counted_bytes(found, machine("linux")) == found.resident_bytes


@settings(deadline=None)
@given(st.sampled_from([v["id"] for v in VECTORS]), st.integers(512, 65536), st.integers(1, 16))
def test_more_context_or_slots_never_take_less(name: str, ctx: int, slots: int) -> None:
    here = footprint.footprint(shape(name), 10**9, ctx, slots).resident_bytes

    assert footprint.footprint(shape(name), 10**9, ctx + 256, slots).resident_bytes >= here
    assert footprint.footprint(shape(name), 10**9, ctx, slots + 1).resident_bytes >= here
    assert footprint.kv_read_bytes(shape(name), ctx) <= footprint.kv_bytes(shape(name), ctx, 1)


def test_terms_add_up_to_the_totals() -> None:
    found = Footprint(1, 2, 400, 8, 16, repack_bytes=32, output_bytes=64, adapter_bytes=128, parent_bytes=256)

    assert sum(term.allocated_bytes for term in found.terms()) == found.allocated_bytes == 891
    assert sum(term.resident_bytes for term in found.terms()) == found.resident_bytes == 507
    assert replace(found, reclaimable_bytes=1).needed_bytes == 506
    assert len(found.terms()) == 8
