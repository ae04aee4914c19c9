"""Memory terms against the reference vectors, to the byte, and against measured buffers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from edgellm.catalog.lookup import catalog
from edgellm.estimate import footprint
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.plan import Footprint
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


def test_each_slot_has_a_cache_and_a_window_of_its_own() -> None:
    gemma = shape("gemma-3-270m")
    one, four = footprint.kv_bytes(gemma, 8192, 1), footprint.kv_bytes(gemma, 8192, 4)

    # llama.cpp's log: 24.00 + 15.00 MiB for one slot, and 163,577,856 bytes for four.
    assert one == 3072 * 8192 + 15360 * 1024
    assert four == 163577856 == 4 * one
    # A smaller batch needs less beside the window: 512 + 128 cells, padded.
    assert footprint.kv_bytes(gemma, 8192, batch=128) == 3072 * 8192 + 15360 * 768


def test_recurrent_state_grows_with_slots_and_not_with_context() -> None:
    qwen = shape("qwen3.5-4b")
    at = {(ctx, slots): footprint.kv_bytes(qwen, ctx, slots) for ctx in (4096, 8192) for slots in (1, 2)}

    assert at[8192, 1] - at[4096, 1] == 4096 * qwen.kv_full_bytes
    assert at[4096, 2] - 2 * 4096 * qwen.kv_full_bytes == 2 * qwen.recurrent_bytes


@pytest.mark.parametrize(
    ("name", "ctx", "slots", "batch", "reserved_mib"),
    [
        # What llama.cpp reserves (tests/support/reserved_buffers.py): its layers decide, its logits, and its masks.
        ("smollm2-135m-instruct", 512, 1, 512, 14.01),
        ("smollm2-135m-instruct", 8192, 4, 512, 21.51),
        ("smollm2-135m-instruct", 8192, 1, 128, 6.7),
        ("gemma-3-270m", 2048, 1, 512, 34.16),
        ("gemma-3-270m", 8192, 4, 512, 37.24),
        ("gemma-3-270m", 32768, 1, 512, 50.77),
        ("qwen3-0.6b", 2048, 1, 512, 28.01),
        ("qwen3-0.6b", 8192, 1, 128, 19.17),
        ("llama-3.2-1b-instruct", 512, 4, 512, 64.51),
        ("llama-3.2-1b-instruct", 32768, 1, 512, 96.01),
    ],
)
def test_compute_buffers_are_what_the_library_reserves(
    name: str, ctx: int, slots: int, batch: int, reserved_mib: float
) -> None:
    reserved, touched = footprint.compute_bytes(shape(name), ctx, slots, batch=batch)

    assert 0 <= reserved / MIB - reserved_mib < 1.0
    assert touched <= reserved


@pytest.mark.parametrize(
    ("name", "batch", "reserved_mib"),
    [
        # The same of headers with these shapes and eight layers (their number decides nothing), 8,192 tokens, one slot.
        ("qwen3-8b", 512, 112.01),
        ("llama-3.1-8b-instruct", 512, 124.01),
        ("gemma-3-4b-it", 512, 88.52),
        ("gemma-3-4b-it", 128, 35.13),
        ("qwen3-30b-a3b", 512, 96.01),
        ("qwen3-30b-a3b", 128, 24.0),
        ("gpt-oss-20b", 512, 101.14),
        ("qwen3.5-0.8b", 512, 50.16),
        ("qwen3.5-4b", 512, 77.02),
        ("qwen3.5-9b", 512, 104.02),
        ("qwen3.5-35b-a3b", 512, 80.02),
        ("lfm2-1.2b", 512, 68.03),
    ],
)
def test_compute_buffers_of_other_architectures_are_near_what_the_library_reserves(
    name: str, batch: int, reserved_mib: float
) -> None:
    """Experts and gated delta nets have widths of their own; how buffers are reused differs by model."""
    reserved, _ = footprint.compute_bytes(shape(name), 8192, batch=batch)

    assert 0.95 < reserved / MIB / reserved_mib < 1.25


def test_without_flash_attention_scores_of_every_head_are_kept() -> None:
    """166.4 MiB measured for SmolLM2 with 8,192 tokens, 160 of them scores and mask (docs/explain/memory-model.md)."""
    reserved, _ = footprint.compute_bytes(shape("smollm2-135m-instruct"), 8192, flash_attention=False)

    assert reserved / MIB == pytest.approx(166.4, abs=10)


def test_logits_are_reserved_for_drafts_and_touched_for_what_is_asked() -> None:
    found = footprint.footprint(shape("gemma-3-270m"), 246587904, 2048)

    assert found.allocated_bytes - found.resident_bytes > 13 * MIB
    assert found.weights_bytes == 246587904
    assert found.kv_bytes == 22020096


def test_mapped_pages_of_repacked_weights_stay_and_may_go() -> None:
    llama = shape("llama-3.2-1b-instruct")
    plain = footprint.footprint(llama, 700 * MIB, 2048)
    mapped = footprint.footprint(llama, 700 * MIB, 2048, repacked_bytes=500 * MIB, table_bytes=100 * MIB)
    read = footprint.footprint(llama, 700 * MIB, 2048, repacked_bytes=500 * MIB, table_bytes=100 * MIB, mmap=False)

    assert mapped.resident_bytes - plain.resident_bytes == 500 * MIB
    # The table is read on, so its copy costs memory whatever is done.
    assert mapped.needed_bytes - plain.needed_bytes == read.needed_bytes - plain.needed_bytes == 100 * MIB
    assert read.resident_bytes == read.needed_bytes
    assert (read.weights_bytes, read.repack_bytes) == (300 * MIB, 500 * MIB)


@pytest.mark.parametrize(
    ("name", "merges", "measured_mib"),
    # Growth of a process that loaded the vocabulary alone: GGUF files of llama.cpp's own, and the model's.
    [
        ("llama-3.2-1b-instruct", 280147, 51.8),
        ("qwen3-0.6b", 151387, 46.0),
        ("gemma-3-270m", 0, 41.3),
        ("smollm2-135m-instruct", 48900, 16.3),
    ],
)
def test_a_tokenizer_takes_what_was_measured(name: str, merges: int, measured_mib: float) -> None:
    assert footprint.tokenizer_bytes(shape(name), merges) / MIB == pytest.approx(measured_mib, abs=6)
    assert footprint.tokenizer_bytes(shape(name)) / MIB == pytest.approx(measured_mib, abs=12)


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
    found = Footprint(
        1, 2, 400, 8, 16, repack_bytes=32, output_bytes=64, adapter_bytes=128, parent_bytes=256, grammar_bytes=512
    )

    assert sum(term.allocated_bytes for term in found.terms()) == found.allocated_bytes == 1403
    assert sum(term.resident_bytes for term in found.terms()) == found.resident_bytes == 1019
    assert structs.replace(found, reclaimable_bytes=1).needed_bytes == 1018
    assert len(found.terms()) == 9


@pytest.mark.parametrize(("n_vocab", "measured_mib"), [(49_152, 17), (128_256, 27), (151_936, 35), (262_144, 65)])
def test_the_tables_for_grammars_take_no_more_than_predicted(n_vocab: int, measured_mib: int) -> None:
    shape = replace(catalog()["qwen3-0.6b"].shape, n_vocab=n_vocab)
    assert measured_mib * MIB <= footprint.grammar_bytes(shape) < (measured_mib + 8) * MIB


def test_what_writes_nothing_needs_no_tables_for_grammars() -> None:
    shape = replace(catalog()["qwen3-0.6b"].shape, kv_full_bytes=0)
    assert footprint.grammar_bytes(shape) == 0
