"""An error names the field that the client sent, in each dialect: not the one of our requests that it becomes."""

from __future__ import annotations

from typing import Any

import pytest
from support.live_server import Live

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
SENT: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {**HELLO, "max_tokens": 0}, "max_tokens"),
    ("/v1/chat/completions", {**HELLO, "max_completion_tokens": 0}, "max_completion_tokens"),
    ("/v1/chat/completions", {**HELLO, "repetition_penalty": -1}, "repetition_penalty"),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 0}, "max_output_tokens"),
    ("/v1/messages", {**HELLO, "max_tokens": 5, "stop_sequences": [""]}, "stop_sequences"),
    ("/v1/messages", {**HELLO, "max_tokens": 0}, "max_tokens"),
    ("/completion", {"prompt": "a", "n_predict": 0}, "n_predict"),
    ("/completion", {"prompt": "a", "n_predict": -7}, "n_predict"),
    ("/completion", {"prompt": "a", "n_cmpl": 0}, "n_cmpl"),
    ("/completion", {"prompt": "a", "repeat_penalty": -1}, "repeat_penalty"),
    ("/completion", {"prompt": "a", "repeat_last_n": -2}, "repeat_last_n"),
    ("/completion", {"prompt": "a", "n_probs": 99}, "n_probs"),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "input_suffix"),
    ("/detokenize", {"tokens": [-1]}, "tokens"),
    ("/detokenize", {"tokens": [10**6]}, "tokens"),
    ("/api/generate", {"prompt": "a", "options": {"num_predict": -7}}, "options.num_predict"),
    ("/api/generate", {"prompt": "a", "options": {"temperature": -1}}, "options.temperature"),
    ("/api/generate", {"prompt": "a", "options": {"repeat_penalty": -1}}, "options.repeat_penalty"),
    ("/api/chat", {**HELLO, "options": {"stop": [""]}}, "options.stop"),
]


@pytest.mark.parametrize(("path", "body", "field"), SENT, ids=[f"{path}-{field}" for path, _, field in SENT])
def test_the_field_that_was_sent_is_named(live: Live, path: str, body: dict[str, Any], field: str) -> None:
    refused = live.post(path, body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    told = error if isinstance(error, str) else error["message"]
    assert isinstance(error, str) or "param" not in error or error["param"] == field
    assert field in told or path == "/infill"


@pytest.mark.parametrize("limit", [-1, -2])
def test_no_limit_is_still_none(live: Live, limit: int) -> None:
    assert live.post("/completion", {"prompt": "a", "n_predict": limit, "stop": ["a"]}).status_code == 200
    options = {"num_predict": limit, "stop": ["a"]}
    assert live.post("/api/generate", {"prompt": "a", "options": options, "stream": False}).status_code == 200


def test_what_may_be_sent_is_listed_without_the_empty_text(live: Live) -> None:
    refused = live.post("/api/generate", {"prompt": "a", "format": "yaml"})
    assert "send one of: json" in refused.json()["error"]
