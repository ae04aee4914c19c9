"""Servers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.live_server import Live, Servers


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    servers = Servers(monkeypatch)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """A fast server with two slots that tests share; they must leave it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(patch)
        yield servers(slots=2)
        servers.close()
