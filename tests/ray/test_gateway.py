"""What the front refuses before a replica is asked."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")
from edgellm_ray.gateway import Gateway


@pytest.mark.parametrize("target", ["*@127.0.0.1:9/secret", "@127.0.0.1:9/secret", "http://127.0.0.1:9/", "*"])
async def test_no_other_host_is_asked(target: str) -> None:
    """Behind the address of Ray's proxy, `@` makes of it a user's name."""
    sent = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": target,
        "raw_path": target.encode(),
        "query_string": b"",
        "headers": [],
    }
    await Gateway("http://127.0.0.1:8000")(scope, receive, send)

    assert sent[0]["status"] == 400
