"""State, pages and errors of the app as a whole."""

from __future__ import annotations

import hashlib
import re
import signal
from dataclasses import replace

import httpx
import psutil
import pytest
from support.live_server import Live, Servers, echo_plan
from support.off_loop import calls_off_loop
from support.waiting import wait_until
from support.words import said

from edgellm.sdk.client import EdgeLLM
from edgellm.server import openapi
from edgellm.server.app import WEB
from edgellm.server.served_model import ServedModel
from edgellm.server.state import describe
from edgellm.types.plan import Candidate, Decision, Footprint, Rate, Rejection


def test_health_when_ready(live: Live) -> None:
    answer = live.http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_while_loading_everything_answers_at_once(serve: Servers) -> None:
    live = serve(load_s=1.0, wait=False)
    live.hold()
    health, chat = live.http.get("/health"), live.chat("hello")

    assert live.llm.state == "loading"
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert (chat.status_code, chat.json()["error"]["code"]) == (503, "model_loading")
    assert chat.headers["retry-after"] == "1"
    assert live.http.get("/edgellm/plan").json()["state"] == "loading"
    assert live.http.get("/").status_code == 200
    live.release()
    wait_until(lambda: live.http.get("/health").status_code == 200)
    assert live.chat("hello").status_code == 200


def test_a_worker_killed_before_the_first_request_is_waited_for(serve: Servers) -> None:
    """Nobody has asked yet, but the model is known to load."""
    live = serve(load_s=0.5)
    worker = live.llm._session.pid  # type: ignore[attr-defined]
    psutil.Process(worker).kill()
    wait_until(lambda: live.llm.state == "reloading")
    body = {"messages": [{"role": "user", "content": "hello"}]}

    # On a machine that stands still a new process has taken 20 s to start.
    assert live.post("/v1/chat/completions", body, timeout=120).status_code == 200


def test_a_model_that_cannot_be_loaded_is_said_to_have_failed(serve: Servers) -> None:
    live = serve(replace(echo_plan(), backend="nosuch"), wait=False)
    wait_until(lambda: live.llm.state == "failed")
    health, chat = live.http.get("/health"), live.chat("hello")

    assert (health.status_code, health.json()["status"]) == (503, "failed")
    assert live.llm.outage is not None
    assert health.json()["reason"] == live.llm.outage.code
    assert (chat.status_code, chat.json()["error"]["code"]) == (503, "model_failed")
    assert "nosuch" in chat.json()["error"]["message"]


def test_a_closed_model_is_not_waited_for(serve: Servers) -> None:
    live = serve()
    live.llm.close()

    assert live.http.get("/health").json()["status"] == "closed"
    assert live.chat("hello").status_code == 503


def test_the_plan_says_what_runs(live: Live) -> None:
    plan = live.http.get("/edgellm/plan").json()

    assert plan["schema"] == 1
    assert (plan["model"], plan["backend"], plan["state"]) == ("echo", "echo", "ready")
    assert plan["settings"]["n_ctx"] == 4096
    assert plan["reasons"] == said(live.llm.plan)
    assert plan["sampling"] == "Sampling: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05 (usual values)."
    assert plan["sampling_facts"]["parts"][0]["values"]["top_k"] == 40
    assert plan["decision"] is None


def test_the_plan_says_how_it_was_chosen() -> None:
    footprint = Footprint(10, 20, 30, 40)
    rate = Rate(9.5, 8.0, 11.0, "predicted: test")
    best = Candidate("a", 1, "Q4_0", "echo", 4096, 1, 10, footprint, rate, rate, 50.0, 40.0, 60.0, "file:/a")
    decision = Decision(best, ("why",), (replace(best, model="b"),), (Rejection("c", "", "fits", "too big"),))
    with EdgeLLM(replace(echo_plan(), footprint=footprint), decision=decision) as llm:
        told = describe(ServedModel(llm))

    assert told["memory"]["resident_bytes"] == 100
    assert told["decode"]["tok_s"] == 9.5
    assert told["decision"]["choice"]["model"] == "a"
    assert told["decision"]["runners_up"][0]["model"] == "b"
    assert told["decision"]["rejected"][0]["reason"] == "too big"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_path"),
        ("GET", "/v1/chat/completions", 405, "wrong_method"),
        ("GET", "/web/nothing.js", 404, "unknown_path"),
        ("GET", "/web/../app.py", 404, "unknown_path"),
        ("PUT", "/v1/models", 405, "wrong_method"),
    ],
)
def test_what_http_refuses_has_the_same_shape(live: Live, method: str, path: str, status: int, code: str) -> None:
    answer = live.http.request(method, path, json={})
    error = answer.json()["error"]

    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


def test_of_a_v1_that_is_there_twice_the_way_out_is_told(live: Live) -> None:
    """Clients of Anthropic's add it to the address that they are given."""
    twice, other = (live.http.post(path, json={}).json()["error"]["message"] for path in ("/v1/v1/messages", "/v1/no"))
    assert "leave /v1 out" in twice
    assert "leave /v1 out" not in other


def test_an_error_that_nobody_foresaw_tells_the_client_nothing(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("edgellm.sdk.client.EdgeLLM.request", broken)
    answer = live.chat("x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert live.post("/v1/completions", {"prompt": "x"}).status_code == 200


def test_the_schema_is_made_once_and_beside_the_event_loop(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_off_loop(monkeypatch, openapi, "document")
    live = serve()
    answers = [live.http.get("/openapi.json") for _ in range(2)]

    assert answers[0].content == answers[1].content
    assert calls == [True]


def test_the_schema_holds_every_field_and_path(live: Live) -> None:
    schema = live.http.get("/openapi.json").json()
    chat = schema["components"]["schemas"]["ChatBody"]

    paths = {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/health",
        "/metrics",
        "/edgellm/plan",
        "/edgellm/activity",
    }
    assert paths <= set(schema["paths"])
    assert {"messages", "tools", "min_p", "ignore_eos", "max_completion_tokens"} <= set(chat["properties"])
    assert chat.get("additionalProperties", True)
    assert "x-edgellm-ignored" in schema["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["headers"]
    assert chat["properties"]["modalities"]["enum"] == [None, ["text"]]
    assert {"role", "content", "name", "tool_calls"} <= set(
        schema["components"]["schemas"]["ChatMessage"]["properties"]
    )
    assert "summary" in schema["paths"]["/v1/models/{name}"]["get"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', live.http.get("/openapi.json").text))
    assert references <= set(schema["components"]["schemas"])


def test_pages_use_nothing_from_elsewhere(live: Live) -> None:
    for path in ("/", "/docs"):
        page = live.http.get(path, headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page.text)
        assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page.text)
        for part in re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text):
            assert live.http.get(part).status_code == 200, part


def test_web_files_come_with_the_package() -> None:
    assert {path.name for path in WEB.iterdir()} >= {"index.html", "page", "vendor", "docs.html", "docs.js"}


def test_swagger_ui_is_the_published_build() -> None:
    """To update it, copy the files of another release of swagger-ui-dist and their hashes."""
    hashes = {
        "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
        "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
        "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
        "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    }
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (WEB / "swagger-ui").iterdir()}

    assert files == hashes


def test_one_connection_serves_many_requests(live: Live) -> None:
    with httpx.Client(base_url=live.url) as client:
        for _ in range(20):
            assert client.post("/v1/completions", json={"prompt": "x"}).status_code == 200


@pytest.mark.parametrize(("path", "allowed"), [("/v1/models", "GET, HEAD"), ("/chat/completions", "POST")])
def test_a_wrong_method_is_told_the_right_ones(live: Live, path: str, allowed: str) -> None:
    assert live.http.request("PUT", path, json={}).headers["allow"] == allowed
