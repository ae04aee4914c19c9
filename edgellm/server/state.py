"""What runs here: `/health`, `/metrics`, and `/edgellm/plan` with the reasons."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from edgellm import __version__, explain
from edgellm.contract.engine import EngineInfo
from edgellm.server.activity import ActivityReport
from edgellm.server.metrics import MEDIA_TYPE
from edgellm.server.metrics import metrics as written
from edgellm.server.openapi import Operation, status_reply
from edgellm.server.responses import NO_STORE, JSONResponse
from edgellm.server.schemas import response
from edgellm.server.served_model import ServedModel

PLAN_SCHEMA = 1
TAG = "State"


def operations(model: ServedModel) -> list[Operation]:
    """The operations that say what runs. /health, which asks for no key, tells only the kind of a reason."""

    async def health(_: Request) -> ASGIApp:
        """200 `ok` when requests are answered, otherwise 503 with the state of the model and the reason."""
        state = model.llm.state
        ready = state == "ready"
        outage = model.llm.outage
        reason = model.reason() if outage is None else outage.code
        report = response.Health("ok") if ready else response.Health(state, reason)
        return JSONResponse(report, 200 if ready else 503, NO_STORE)

    async def plan(request: Request) -> ASGIApp:
        """What runs here and why: the plan, the reasons, and how the choice was made (docs/http.md has the schema)."""
        described = describe(model, request.query_params.get("model"))
        return JSONResponse(described, headers=NO_STORE)

    async def activity(_: Request) -> ASGIApp:
        """Slots, queue and memory now, and how fast the last answers were."""
        return JSONResponse(model.activity_report(), headers=NO_STORE)

    async def metrics(_: Request) -> ASGIApp:
        """Counters since the start, in Prometheus' text format."""
        answer = Response(written(model), media_type=MEDIA_TYPE, headers=NO_STORE)
        # As llama-server writes it: its clients look for it by these letters.
        answer.raw_headers.append((b"Process-Start-Time-Unix", str(model.created).encode()))
        return answer

    unavailable = status_reply(response.Health, HTTPStatus.SERVICE_UNAVAILABLE)
    return [
        Operation("GET", "/health", health, TAG, response.Health, other_replies=unavailable),
        Operation("GET", "/edgellm/plan", plan, TAG, None),
        Operation("GET", "/edgellm/activity", activity, TAG, ActivityReport),
        Operation("GET", "/metrics", metrics, TAG, str),
    ]


def describe(model: ServedModel, name: str | None = None) -> dict[str, Any]:
    """The body of /edgellm/plan, as asked by one of the model's names."""
    llm = model.llm
    plan, decision = llm.plan, llm.decision
    artifact, footprint = plan.artifact, plan.footprint
    # `llm.info` waits for the model, which would block the event loop.
    info = llm.info if llm.state == "ready" else None
    return {
        "schema": PLAN_SCHEMA,
        "state": llm.state,
        "reason": model.reason(),
        "node": model.node,
        "model": model.id_for(name),
        "quant": artifact.quant,
        "format": artifact.format,
        "file_bytes": artifact.bytes,
        "backend": plan.backend,
        "settings": msgspec.to_builtins(plan.settings),
        "thinking": plan.thinking,
        **explain.plain({"sampling": None if info is not None and not info.generates else plan.sampling}),
        **explain.plain({"thinking_sampling": plan.thinking_sampling}),
        "chat": info is None or info.chat_template is not None,
        "can": _abilities(info),
        "memory": None
        if footprint is None
        else {**msgspec.to_builtins(footprint), "resident_bytes": footprint.resident_bytes},
        "decode": decision and decision.choice and explain.plain(decision.choice.decode),
        "verified": llm.verification.summary(),
        "engine": {} if info is None else {"device": info.device, **info.details},
        "reasons": list(map(explain.sentence, plan.reasons)),
        "reasons_facts": list(map(explain.facts, plan.reasons)),
        "decision": decision and explain.plain(decision),
        "version": __version__,
    }


def _abilities(info: EngineInfo | None) -> list[str]:
    """What the model can do: "generate", "embed", "rerank"; empty while it loads."""
    if info is None:
        return []
    return ["generate"] * info.generates + [name for name in ("embed", "rerank") if name in info.capabilities]
