"""Ollama's dialect over real HTTP: shapes, streams, models, refusals."""

from __future__ import annotations

import json
from typing import Any

import httpx
from support.live_server import Live


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def chat(live: Live, text: str, **fields: Any) -> httpx.Response:
    return live.post("/api/chat", {"messages": [{"role": "user", "content": text}], **fields})


def test_x(live: Live) -> None:
    for r in (chat(live,"hällo"), chat(live,"hi",stream=False), live.post("/api/chat",{}), live.post("/api/generate",{"prompt":"x","stream":False,"keep_alive":0}),
        live.post("/api/generate",{"prompt":"xyz","raw":True,"logprobs":True,"options":{"num_predict":2,"top_k":40,"foo":1}}),
        live.http.get("/api/tags"), live.http.get("/api/ps"), live.http.get("/api/version"), live.post("/api/show",{"name":"echo:latest"}), live.post("/api/show",{"name":"nope"}),
        live.post("/api/embed",{"input":["a","b"]}),live.post("/api/embed",{}),live.post("/api/embeddings",{"prompt":"a"}),
        live.post("/api/pull",{"model":"echo"}),live.post("/api/pull",{"model":"echo","stream":False}),live.post("/api/pull",{"model":"x"}), live.post("/api/create",{"model":"x"}), live.http.head("/api/blobs/sha256:1"),
        live.post("/api/copy",{"source":"echo","destination":"b"}), live.http.request("DELETE","/api/delete",json={"model":"echo"}), live.http.get("/"), live.http.head("/"),
        chat(live,"hi",options={"num_ctx":100000}), chat(live, "hi", stream=False, tools=[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}], format="json")):
        print(r.request.method, r.request.url.path, r.status_code, dict(r.headers).get("x-edgellm-ignored"), r.text[:600])
