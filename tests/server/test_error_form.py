"""Errors have the form that the clients of each dialect expect, also where no route is reached."""

from __future__ import annotations

from typing import Any

import pytest
from support.live_server import Live, Servers

from edgellm.errors import Closed, ContextOverflow, Overloaded, TooManyRequests, UnknownModel, UnsupportedField
from edgellm.server.error_form import ANTHROPIC, OLLAMA, OPENAI, form_of
from edgellm.server.errors import HttpError

KEY = "s3cret-key"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/messages", ANTHROPIC),
        ("/v1/messages/count_tokens", ANTHROPIC),
        ("/messages", ANTHROPIC),
        ("/api/chat", OLLAMA),
        ("/apikeys", OPENAI),
        ("/v1/chat/completions", OPENAI),
        ("/", OPENAI),
    ],
)
def test_which_form_a_path_has(path: str, form: object) -> None:
    assert form_of(path) is form


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UnknownModel("no"), 404, "not_found_error"),
        (ContextOverflow("long", n_prompt=9, n_ctx=8), 400, "invalid_request_error"),
        (TooManyRequests("many"), 429, "rate_limit_error"),
        (Overloaded("full"), 529, "overloaded_error"),
        (Closed("gone"), 503, "api_error"),
        (HttpError(413, "large", code="body_too_large"), 413, "request_too_large"),
        (ValueError("secret"), 500, "api_error"),
    ],
)
def test_anthropics_form(error: Exception, status: int, kind: str) -> None:
    body = ANTHROPIC.describe(error, "id-1")

    assert ANTHROPIC.status_of(error) == status
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", kind, "id-1")
    assert "secret" not in body["error"]["message"]


def test_anthropics_clients_are_told_that_nothing_is_kept() -> None:
    detail = ANTHROPIC.describe(UnsupportedField("no", param="thread"), "")["error"]

    assert detail["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "details" not in ANTHROPIC.describe(UnsupportedField("no", param="container"), "")["error"]


def test_ollamas_form() -> None:
    assert OLLAMA.describe(Closed("gone"), "") == {"error": "gone", "code": "closed"}
    assert OLLAMA.in_stream(Closed("gone"), "") == b'{"error":"gone","code":"closed"}\n'


def error_at(live: Live, path: str) -> Any:
    return live.post(path, {}).json()["error"]


def test_a_guarded_path_refuses_in_its_own_form(serve: Servers) -> None:
    locked = serve(api_key=KEY)

    assert error_at(locked, "/v1/messages")["type"] == "authentication_error"
    assert isinstance(error_at(locked, "/api/chat"), str)
    assert error_at(locked, "/v1/chat/completions")["code"] == "invalid_api_key"
