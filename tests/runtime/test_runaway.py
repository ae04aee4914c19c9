"""A model whose files make its worker compute without end: requests end typed, others go on, and restarts wait."""

from __future__ import annotations

import sys

import pytest
from support.refusals import refuses
from support.sessions import Listener, OpenSession, ask
from support.waiting import wait_until

from edgellm.errors import RunawayModel
from edgellm.runtime import supervisor, worker_process
from edgellm.types.request import DetokenizeRequest, TokenizeRequest, TokenRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timers of a thread's processor time are Linux's")

# The echo model with a tokenizer that never ends on some texts, and a load that never does where the plan says so.
WORKER = """
import sys
from edgellm.builtin import echo
from edgellm.runtime import processor_time, worker
processor_time.LOAD_S = float(sys.argv[1])
processor_time.SPARE_S = 0.2
encode, opens = echo.ByteTokenizer.encode, echo.EchoBackend.open
token_bytes = echo.ByteTokenizer.token_bytes
def hostile(self, text, **options):
    while "again and again" in text: pass
    return encode(self, text, **options)
def no_piece(self, token):
    while token == 7: pass
    return token_bytes(self, token)
def endless(self, plan):
    while sys.argv[2] == "endless": pass
    return opens(self, plan)
echo.ByteTokenizer.encode, echo.ByteTokenizer.token_bytes, echo.EchoBackend.open = hostile, no_piece, endless
worker.main()
"""
SHORT, LONG = "again and again", "again and again " * 1000  # the second is read in another thread


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", WORKER, "60", ""))


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
def test_a_text_that_never_ends_is_its_models_fault_and_others_go_on(open_session: OpenSession, text: str) -> None:
    session = open_session()
    error = ask(session, text).end()[1]
    assert isinstance(error, RunawayModel)
    assert "tokenizer" in error.reason
    assert isinstance(session.outage, RunawayModel | None)
    assert ask(session, "next").end()[0] == "next"
    assert session.restarts == 1


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize(
    "request_",
    [TokenizeRequest(SHORT), TokenizeRequest(LONG), DetokenizeRequest((7,))],
    ids=["short", "long", "tokens"],
)
def test_so_is_one_that_is_only_counted(open_session: OpenSession, request_: TokenRequest) -> None:
    session, listener = open_session(), Listener()
    session.submit(request_, listener)
    error = listener.get()
    assert isinstance(error, RunawayModel)
    assert "tokenizer" in error.reason


@pytest.mark.usefixtures("hostile")
def test_a_model_that_does_it_again_and_again_is_refused_for_a_while(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RELOADS", 1)
    monkeypatch.setattr(supervisor, "RELOAD_PAUSE_S", 0.01)
    session = open_session()
    for _ in range(2):
        assert isinstance(ask(session, SHORT).end()[1], RunawayModel)
    wait_until(lambda: session.state == "failed")
    assert isinstance(session.outage, RunawayModel)
    with pytest.raises(RunawayModel):
        ask(session)


def test_a_load_that_never_ends_is_a_typed_error(open_session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "worker_command", lambda: (sys.executable, "-c", WORKER, "0.2", "endless"))
    session = open_session()
    with refuses(RunawayModel) as caught:
        _ = session.info
    assert "load" in caught.value.reason
    assert session.state == "failed"
