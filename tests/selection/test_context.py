"""The context: as asked, else as long as memory and the floor allow, and always with its reason."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm import explain
from edgellm.selection.context_length import choose_context, longest
from edgellm.types.reason import ContextLength

GIB = 1024**3


def test_asked_is_given(option) -> None:
    assert choose_context(option("qwen3-0.6b", "Q4_K_M", ctx=3000)) == ContextLength(3000, "asked")


def test_all_that_the_model_was_trained_for_and_no_more(option, machine) -> None:
    context = choose_context(option("smollm2-135m-instruct", "Q8_0", machine(16)))

    assert (context.ctx, context.bound) == (8192, "trained")
    assert "all that the model was trained for" in explain.sentence(context)


def test_unasked_no_more_than_the_task_needs_is_reserved(option, machine) -> None:
    context = choose_context(option("qwen3.5-2b", "Q4_K_M", machine(64, gb_s=200.0)))

    assert (context.ctx, context.bound, context.ctx_train) == (32768, "unasked", 262_144)
    assert "ctx asks for more" in explain.sentence(context)
    assert "262,144" in explain.sentence(context)


def test_memory_bounds_it(option, machine) -> None:
    on = machine(4, gb_s=200.0)
    chosen = option("qwen3-0.6b", "Q4_K_M", on)
    context = choose_context(chosen)

    assert 4096 <= context.ctx < 32768
    assert chosen.counted_at(context.ctx) <= chosen.scenario.budget_bytes < chosen.counted_at(context.ctx * 2)
    assert context.bound == "memory"
    assert "memory budget allows" in explain.sentence(context)


def test_the_floor_bounds_it(option, machine) -> None:
    on = machine(64, gb_s=12.0)
    chosen = option("qwen3-0.6b", "Q4_K_M", on)
    context = choose_context(chosen)

    assert context.ctx < 32768
    assert chosen.decode_at(context.ctx // 2).tok_s >= 5
    assert (context.bound, context.floor_tps) == ("speed", 5)
    assert "would fall below 5" in explain.sentence(context)


def test_below_the_floor_the_need_of_the_task_bounds_it(option, machine) -> None:
    """The model is too slow anyway: it is not said that a longer context would be."""
    chosen = option("qwen3-4b", "Q4_K_M", machine(64, gb_s=8.0))
    context = choose_context(chosen)

    assert chosen.decode.tok_s < 5
    assert (context.ctx, context.bound, context.floor_tps) == (4096, "task", None)
    assert context.tok_s == chosen.decode_at(2048).tok_s
    assert "the least that is useful for chat; half full it decodes at" in explain.sentence(context)


@settings(deadline=None)
@given(st.integers(1, 200_000), st.integers(0, 200_000))
def test_longest_is_the_longest_step_that_holds(limit: int, most: int) -> None:
    found = longest(limit, lambda ctx: ctx <= most)

    assert found == 0 or (min(512, limit) <= found <= min(limit, most))
    if limit <= most:
        assert found == limit
