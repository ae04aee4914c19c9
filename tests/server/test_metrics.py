"""`/metrics` counts what was asked, answered and failed, in a form that Prometheus reads."""

from __future__ import annotations

import os
import signal

import pytest
from support.live_server import Live, Servers
from support.waiting import wait_until


def metrics(live: Live) -> dict[str, float]:
    """By name and label, without the prefix."""
    lines = live.http.get("/metrics").text.splitlines()
    numbers = (line.rsplit(" ", 1) for line in lines if line.startswith("edgellm_"))
    return {name.removeprefix("edgellm_"): float(number) for name, number in numbers}


def test_requests_tokens_and_seconds_are_counted(serve: Servers) -> None:
    live = serve()
    usage = live.chat("hello").json()["usage"]
    wait_until(lambda: metrics(live)['requests_total{status="2xx"}'] >= 2)
    after = metrics(live)

    assert after["answer_tokens_total"] == usage["completion_tokens"]
    assert after["prompt_tokens_total"] + after["cached_tokens_total"] == usage["prompt_tokens"]
    assert after["request_seconds_total"] > 0
    assert (after["ready"], after["slots_busy"], after["requests_waiting"]) == (1, 0, 0)
    assert after["slots"] == live.llm.plan.settings.n_slots
    assert after["resident_bytes"] > 0


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [("/v1/chat/completions", {}, "4xx", "usage_error"), ("/nowhere", None, "4xx", "unknown_path")],
)
def test_errors_are_counted_by_their_code(serve: Servers, path: str, body: object, status: str, code: str) -> None:
    live = serve()
    live.post(path, body)
    wait_until(lambda: f'requests_total{{status="{status}"}}' in metrics(live))
    after = metrics(live)

    assert after[f'requests_total{{status="{status}"}}'] == 1
    assert after[f'request_errors_total{{code="{code}"}}'] == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_probes_of_health_are_no_requests(serve: Servers) -> None:
    live = serve(load_s=1.0, wait=False)
    live.hold()
    assert live.http.get("/health").status_code == 503
    wait_until(lambda: 'requests_total{status="2xx"}' in metrics(live))

    assert 'requests_total{status="5xx"}' not in metrics(live)
    live.release()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_worker_that_died_is_counted(serve: Servers) -> None:
    live = serve()
    assert live.chat("hello").status_code == 200
    assert metrics(live)["worker_restarts_total"] == 0
    os.kill(live.llm._session.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    wait_until(lambda: metrics(live)["ready"] == 1 and metrics(live)["worker_restarts_total"] == 1)


def test_each_name_has_one_help_and_one_type(live: Live) -> None:
    lines = live.http.get("/metrics").text.splitlines()
    for kind in ("# HELP", "# TYPE"):
        names = [line.split()[2] for line in lines if line.startswith(kind)]
        assert len(set(names)) == len(names)
