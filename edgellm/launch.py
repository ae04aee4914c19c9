"""From what is wanted to a plan that a worker can load: probe, decide, fetch. Wires verbs; decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgellm.model import Artifact
from edgellm.plan import Candidate, Decision, LaunchPlan, Settings
from edgellm.request import SelectionRequest

Progress = Callable[[int, int | None, str], None]

ECHO_CTX = 4096


def auto_plan(request: SelectionRequest, *, progress: Progress | None = None) -> tuple[LaunchPlan, Decision]:
    raise NotImplementedError


def model_plan(
    model: str,
    request: SelectionRequest,
    *,
    quant: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> LaunchPlan:
    if model == "echo":
        settings = Settings(n_ctx=request.ctx or ECHO_CTX, n_slots=request.slots)
        return LaunchPlan("echo", Artifact("echo", (), "echo"), settings, ("echo was named: it says the prompt back",))
    raise NotImplementedError
