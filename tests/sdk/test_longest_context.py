"""What is too long is told with a way that there is: a longer context only where the model has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from edgellm.app import launch
from edgellm.errors import ContextOverflow
from edgellm.sdk.client import EdgeLLM
from edgellm.types.request import GenerationRequest, SelectionRequest

N_CTX = 256
SPECIAL = "<|user|>"
# Refused by the worker, by the bytes of a request and of a conversation, and by the special tokens that it may hold.
WAYS: dict[str, Callable[[EdgeLLM], object]] = {
    "tokens": lambda llm: list(llm.generate(GenerationRequest("a" * 2 * N_CTX))),
    "bytes": lambda llm: list(llm.generate(GenerationRequest("a" * 200 * N_CTX))),
    "conversation": lambda llm: llm.request("a" * 200 * N_CTX),
    "template": lambda llm: llm.request(SPECIAL * N_CTX),
    "input": lambda llm: llm.embed(["a" * 2 * N_CTX]),
}


@pytest.fixture(scope="module", params=[0, 2 * N_CTX, N_CTX], ids=["unknown", "longer", "longest"])
def of_a_length(request: pytest.FixtureRequest) -> Iterator[tuple[EdgeLLM, bool]]:
    """A model that was trained for so many tokens, and whether a longer context is advised."""
    plan = launch.model_plan("echo", SelectionRequest(ctx=N_CTX))
    plan = replace(plan, artifact=replace(plan.artifact, ctx_train=request.param))
    with EdgeLLM(plan, isolate=request.param == N_CTX) as llm:
        llm._session._info = replace(llm.info, special_texts=(SPECIAL,))
        yield llm, request.param != N_CTX


@pytest.mark.parametrize("way", WAYS)
def test_a_longer_context_is_advised_where_the_model_has_one(of_a_length: tuple[EdgeLLM, bool], way: str) -> None:
    llm, is_advised = of_a_length
    with pytest.raises(ContextOverflow) as error:
        WAYS[way](llm)
    assert ("longer context" in error.value.hint) == is_advised
    assert error.value.hint.startswith(("shorten the prompt", "send shorter pieces"))
