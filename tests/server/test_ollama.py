"""Ollama's dialect over real HTTP: answers, streams, what describes the model, refusals."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from support.live_server import Live, Servers
from support.off_loop import calls_off_loop

from edgellm.server import sse
from edgellm.server.dialects.ollama.chunks import OllamaChunks
from edgellm.server.names import ModelNames

ISOLATE = False  # a process for a model costs more than most of these tests, and changes none of their answers


BODIES = {"/api/chat": "message", "/api/generate": "response"}


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def chat(live: Live, text: str, **fields: Any) -> httpx.Response:
    return live.post("/api/chat", {"model": "echo", "messages": [{"role": "user", "content": text}], **fields})


def generate(live: Live, text: str, **fields: Any) -> httpx.Response:
    return live.post("/api/generate", {"model": "echo", "prompt": text, **fields})


def error(answer: httpx.Response) -> str:
    body = answer.json()
    assert list(body) == ["error", "code"]
    text: str = body["error"]
    return text


def test_a_chat_is_a_stream_of_lines_unless_asked(live: Live) -> None:
    *parts, last = lines(chat(live, 'Grüße 🎈 "\\\n\x00'))

    assert "".join(part["message"]["content"] for part in parts) == 'Grüße 🎈 "\\\n\x00'
    assert {part["message"]["role"] for part in parts} == {"assistant"}
    assert [part["done"] for part in parts] == [False] * len(parts)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["model"], last["done"], last["done_reason"]) == ("echo", True, "stop")
    assert last["eval_count"] == len('Grüße 🎈 "\\\n\x00'.encode())


def test_a_whole_chat(live: Live) -> None:
    answer = chat(live, "hello", stream=False).json()

    assert answer["message"] == {"role": "assistant", "content": "hello"}
    assert answer["created_at"].endswith("Z")
    assert (answer["done"], answer["done_reason"], answer["eval_count"]) == (True, "stop", 5)
    assert answer["total_duration"] == sum(
        answer[name] for name in ("load_duration", "prompt_eval_duration", "eval_duration")
    )


def test_generate_whole_streamed_and_raw(live: Live) -> None:
    *parts, last = lines(generate(live, "hello"))

    assert "".join(part["response"] for part in parts) == "hello"
    assert last["done_reason"] == "stop"
    assert generate(live, "hello", stream=False).json()["response"] == "hello"
    assert generate(live, "hello", stream=False, raw=True, system="").json()["response"] == "hello"


def test_the_answer_is_in_the_name_that_was_asked_for(serve: Servers) -> None:
    live = serve(names=ModelNames(("llama3.2",)))

    assert chat(live, "hello", model="llama3.2:latest", stream=False).json()["model"] == "llama3.2:latest"
    assert [model["name"] for model in live.http.get("/api/tags").json()["models"]] == ["echo", "llama3.2"]


@pytest.mark.parametrize("path", BODIES)
def test_nothing_asked_means_see_that_it_is_loaded(live: Live, path: str) -> None:
    answer = live.post(path, {"model": "echo", "keep_alive": 0}).json()

    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert answer["notes"] == ["model_stays_loaded"]
    assert "notes" not in live.post(path, {"model": "echo", "keep_alive": "5m"}).json()


def test_a_limit_and_logprobs(live: Live) -> None:
    *parts, last = lines(chat(live, "hello", options={"num_predict": 2}, logprobs=True, top_logprobs=1))
    tokens = [token for part in parts for token in part["logprobs"]]

    assert (last["done_reason"], last["eval_count"]) == ("length", 2)
    assert [token["token"] for token in tokens] == ["h", "e"]
    assert [len(token["top_logprobs"]) for token in tokens] == [1, 1]
    whole = generate(live, "hello", stream=False, logprobs=True).json()
    assert [token["token"] for token in whole["logprobs"]] == list("hello")


def test_whole_answers_are_written_beside_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    written = calls_off_loop(monkeypatch, OllamaChunks, "whole")

    assert generate(live, "hello", stream=False, logprobs=True).status_code == 200
    assert chat(live, "hello", stream=False).status_code == 200
    assert written == [True, True]


def test_an_answer_in_json(live: Live) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for wanted in ("json", schema):
        whole = chat(live, "hello", stream=False, format=wanted, options={"num_predict": 200, "seed": 1}).json()
        assert isinstance(json.loads(whole["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("path", "fields", "says"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "options": {"num_ctx": 4097}}, "num_ctx=4097"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "options": {"num_ctx": 0}}, "num_ctx=0"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "think": "a lot"}, "think"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "format": "xml"}, "format"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, "context"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, "images"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, "does not fill in"),
        ("/api/embed", {"input": "x", "options": {"num_ctx": 5000}}, "4096"),
        ("/api/show", {"model": "llama3"}, "llama3"),
    ],
)
def test_what_is_refused_is_named(live: Live, path: str, fields: dict[str, Any], says: str) -> None:
    answer = live.post(path, {"model": "echo", **fields})

    assert answer.status_code == (404 if path == "/api/show" else 400)
    assert says in error(answer)


def test_options_of_the_load_and_of_other_samplers_change_nothing(live: Live) -> None:
    options = {"num_ctx": 2048, "num_batch": 8, "num_thread": 2, "mirostat": 2, "use_mmap": False, "num_keep": 4}
    answer = chat(live, "hello", stream=False, options={**options, "unheard_of": 1}, keep_alive=-1, shift=True)

    assert answer.json()["message"]["content"] == "hello"
    assert answer.headers["x-edgellm-ignored"] == "options.unheard_of"


def test_an_error_in_mid_stream_is_a_line(serve: Servers) -> None:
    live = serve(step_s=0.2)
    with live.http.stream("POST", "/api/generate", json={"prompt": "x" * 200}) as answer:
        sent = answer.iter_lines()
        next(sent)
        live.llm.close()
        *_, last = sent

    assert json.loads(last)["code"] == "closed"


def test_a_long_wait_is_bridged_by_empty_lines(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.01)
    first, *_ = lines(chat(serve(step_s=0.2), "hi"))

    assert (first["message"], first["done"]) == ({"role": "assistant", "content": ""}, False)


def test_vectors(live: Live) -> None:
    answer = live.post("/api/embed", {"input": ["a", "b"]}).json()
    one = live.post("/api/embeddings", {"prompt": "b"}).json()

    assert [len(row) for row in answer["embeddings"]] == [256, 256]
    assert one["embedding"] == answer["embeddings"][1]
    assert answer["prompt_eval_count"] == 4
    for nothing in ([], "", None):
        assert live.post("/api/embed", {"input": nothing}).json()["embeddings"] == []
    for empty in (["", ""], ["a", ""], [""]):
        assert live.post("/api/embed", {"input": empty}).status_code == 400
    assert live.post("/api/embeddings", {}).json()["embedding"] == []


def test_a_text_that_is_too_long_is_cut_unless_asked(live: Live) -> None:
    long = "x" * 5000
    answer = live.post("/api/embed", {"input": ["a", long]}).json()

    assert answer["prompt_eval_count"] == 2 + 4096
    assert answer["notes"] == ["input_cut"]
    assert live.post("/api/embeddings", {"prompt": long}).status_code == 200
    refused = live.post("/api/embed", {"input": ["a", long], "truncate": False})
    assert refused.status_code == 400
    assert "input[1]" in error(refused)


def test_what_runs(live: Live) -> None:
    (listed,) = live.http.get("/api/tags").json()["models"]
    (running,) = live.http.get("/api/ps").json()["models"]

    assert (listed["name"], listed["model"], len(listed["digest"])) == ("echo", "echo", 64)
    assert (running["digest"], running["context_length"], running["size_vram"]) == (listed["digest"], 4096, 0)
    assert running["expires_at"] > "2300"


def test_while_it_loads_nothing_runs(serve: Servers) -> None:
    live = serve(load_s=60, wait=False)

    assert live.http.get("/api/ps").json() == {"models": []}
    answer = chat(live, "hello")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    error(answer)


def test_what_the_model_is(live: Live) -> None:
    for field in ("model", "name"):
        shown = live.post("/api/show", {field: "echo:latest", "verbose": True}).json()
        assert shown["capabilities"] == ["completion", "embedding"]
        assert shown["model_info"]["general.architecture"] == "echo"
        assert shown["model_info"]["echo.context_length"] == 4096
        assert shown["details"]["family"] == "echo"


def test_programs_see_ollama_and_browsers_the_page(live: Live) -> None:
    assert live.http.get("/").text == "Ollama is running"
    assert live.http.head("/").status_code == 200
    page = live.http.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "accept"


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded"])
def test_programs_need_not_say_what_they_send(live: Live, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"messages": [{"role": "user", "content": "hello"}], "stream": false}'

    assert live.http.post("/api/chat", content=body, headers=headers).json()["message"]["content"] == "hello"
    refused = live.http.post("/api/chat", content=body, headers={**headers, "sec-fetch-site": "same-origin"})
    assert refused.status_code == 415
    error(refused)
