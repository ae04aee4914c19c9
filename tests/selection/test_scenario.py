"""What selection is told: which files a backend opens, and where the memory budget comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.refusals import refuses

from edgellm import explain
from edgellm.errors import UsageError
from edgellm.selection.scenario import Scenario
from edgellm.types.machine import Limits
from edgellm.types.model import ModelFile
from edgellm.types.request import SelectionRequest
from edgellm.units import GIB


@pytest.mark.parametrize(
    ("changes", "quant", "kind", "why"),
    [
        ({}, "Q4_K_M", "gguf", ""),
        ({}, "Q4_K_M", "onnx", "opens gguf, not onnx"),
        ({}, "I2_S", "gguf", "is not a type of stock llama.cpp"),
        ({"quants": frozenset({"I2_S"})}, "I2_S", "gguf", ""),
        ({"quants": frozenset({"I2_S"})}, "Q4_K_M", "gguf", "no kernels for Q4_K_M"),
        ({"quants": frozenset({"Q4_K_M"})}, "UD-Q4_K_XL", "gguf", ""),
        ({"quants": frozenset({"I2_S"})}, "UD-Q4_K_XL", "gguf", "no kernels for UD-Q4_K_XL"),
        ({"archs": frozenset({"qwen3"})}, "Q4_K_M", "gguf", "does not load architecture llama"),
        ({"archs": frozenset({"llama"})}, "Q4_K_M", "gguf", ""),
        ({"types": frozenset({"Q4_K"})}, "Q4_K_M", "gguf", ""),
        ({"types": frozenset({"Q4_K"})}, "TQ2_0", "gguf", "opens no TQ2_0 tensors"),
    ],
)
def test_a_backend_opens_what_it_names(gguf, changes, quant: str, kind: str, why: str) -> None:
    refusal = gguf(**changes).refuses(ModelFile("hf://a/b", quant, kind), "llama")

    assert bool(why) == (refusal is not None)
    assert refusal is None or why in explain.refusal(refusal)


def test_the_budget_is_what_is_asked_where_that_is_less(machine) -> None:
    less = Scenario.of(machine(16), SelectionRequest(max_memory_bytes=2**30))
    more = Scenario.of(machine(16), SelectionRequest(max_memory_bytes=2**40))

    assert less.budget_bytes == 2**30
    assert "as asked" in explain.budget(less.budget)
    assert more.budget_bytes == machine(16).memory_budget_bytes


def test_a_limit_is_named_with_what_it_allows(machine, limited) -> None:
    given = Scenario.of(limited(machine(64), 2 * 2**30), SelectionRequest())

    assert given.budget_bytes == 2 * 2**30 - 512 * 2**20
    assert "cgroup v2 /app allows 2.00 GiB" in explain.budget(given.budget)


def test_a_model_trained_for_less_than_the_task_needs_is_asked_for_all_of_it(machine) -> None:
    assert Scenario.of(machine(), SelectionRequest(task="agent")).needed_ctx(131072) == 16384
    assert Scenario.of(machine(), SelectionRequest(task="agent")).needed_ctx(8192) == 8192
    assert Scenario.of(machine(), SelectionRequest(ctx=700)).needed_ctx(8192) == 700


@pytest.mark.parametrize(
    ("limits", "available", "words"),
    [
        (Limits(2 * GIB, 0, source="memory: ulimit -v; cpus: cgroup v2 /app"), 8 * GIB, "ulimit -v unlimited"),
        (Limits(2 * GIB, 0, source="memory: cgroup v2 /app"), 8 * GIB, "MemoryMax"),
        (Limits(2 * GIB, 0, source="a scheduler"), 8 * GIB, "raise the limit"),
        (Limits(8 * GIB, 0, source="memory: cgroup v2 /app"), 2 * GIB, "other programs"),
        (Limits(), 2 * GIB, "other programs"),
        (Limits(), None, "a machine with more"),
    ],
)
def test_more_memory_is_had_where_it_is_bound(machine, limits: Limits, available: int | None, words: str) -> None:
    """`available` of 16 GiB."""
    here = machine(16)
    here = replace(here, limits=limits, memory=replace(here.memory, available_bytes=available))
    assert words in explain.more_memory(Scenario.of(here, SelectionRequest()).budget)


def test_the_speed_that_is_told_is_that_of_the_threads_asked_for(option) -> None:
    one, all_cores = option("qwen3-4b", "Q4_K_M", threads=1), option("qwen3-4b", "Q4_K_M")

    assert (one.threads, one.candidate(4096).threads_batch) == (1, 1)
    assert one.decode.tok_s < all_cores.decode.tok_s / 2
    assert one.prefill.tok_s < all_cores.prefill.tok_s / 6


def test_more_threads_than_processors_are_refused(machine) -> None:
    assert Scenario.of(machine(cores=8), SelectionRequest(threads=8)).threads == 8
    with refuses(UsageError, param="threads"):
        Scenario.of(machine(cores=8), SelectionRequest(threads=9))
