"""A replica without Ray: who may ask it, and what it says of its health."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from edgellm_ray import placement
from edgellm_ray.box import Box
from edgellm_ray.config import ModelConfig

from edgellm.app import launch
from edgellm.types.options import LaunchOptions

KEY = "0123456789abcdef"
NAME = "models.example.org"


@contextlib.contextmanager
def box(monkeypatch: pytest.MonkeyPatch, **service: object) -> Iterator[Box]:
    """One that serves the echo model."""
    plan, _ = launch.plan("echo", LaunchOptions())
    monkeypatch.setattr(placement, "planned", lambda _: placement.Planned(plan, None, None, 0))
    made = Box({"public_name": NAME, **service})
    made._app = made._opened(ModelConfig(model="echo"))
    try:
        yield made
    finally:
        made._close()


async def status(made: Box, path: str = "/v1/models", **headers: str) -> int:
    transport = httpx.ASGITransport(made.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{NAME}") as client:
        return (await client.get(path, headers=headers)).status_code


async def test_it_asks_for_the_key_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches Ray's proxy is no further than at the front."""
    with box(monkeypatch, api_key=KEY) as made:
        assert await status(made) == 401
        assert await status(made, authorization=f"Bearer {KEY}") == 200


async def test_it_answers_to_the_public_name_of_the_cluster_and_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with box(monkeypatch) as made:
        assert await status(made) == 200
        assert await status(made, host="evil.example") == 403


async def test_its_health_is_that_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with box(monkeypatch) as made:
        await made.check_health()
        made._served.llm.close()

        with pytest.raises(RuntimeError):  # Ray replaces it
            await made.check_health()
