"""Servers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.live_server import Live, Servers


@pytest.fixture
def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """A module that says `ISOLATE = False` has its models in threads, but for tests that ask for a process."""
    servers = Servers(monkeypatch, isolate=getattr(request.module, "ISOLATE", True))
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """A fast server with two slots that tests share; they must leave it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(patch)
        yield servers(slots=2)
        servers.close()
