"""What an error says of the running model, in the words of whoever reads it."""

from __future__ import annotations

import pytest

from edgellm.contract.engine import EngineInfo
from edgellm.errors import speak_in_flags
from edgellm.runtime.unsupported_task import unsupported_task


@pytest.mark.parametrize(
    ("can", "in_python", "over_http"),
    [
        (("embed",), {"EdgeLLM.embed"}, {"/v1/embeddings"}),
        (("rerank",), {"EdgeLLM.rerank"}, {"/v1/rerank"}),
        (("embed", "rerank"), {"EdgeLLM.embed", "EdgeLLM.rerank"}, {"/v1/embeddings", "/v1/rerank"}),
        ((), set(), set()),
    ],
)
def test_calls_are_named_as_readers_make_them(can: tuple[str, ...], in_python: set[str], over_http: set[str]) -> None:
    info = EngineInfo(1, 64, 64, 64, 100, frozenset(), capabilities=frozenset(can), generates=False)
    for in_flags, calls in ((False, in_python), (True, over_http)):
        before = speak_in_flags(in_flags)
        try:
            hint = unsupported_task("chat", info).hint
        finally:
            speak_in_flags(before)
        assert {word.strip(",") for word in hint.split() if "/v1/" in word or "EdgeLLM." in word} == calls
