"""Boxes that plan for themselves, answer together, and are watched."""

from __future__ import annotations

import itertools
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest
from click.testing import CliRunner
from edgellm_ray import deployment, front
from edgellm_ray.commands import command
from edgellm_ray.node import PROFILE_VARIABLE
from support.ray_cluster import PROFILES, Boxes, process_of
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(600)]

FOURTH = "raspberry-pi-5-16gb"
# One thread: those of the profiles would wait for each other on this machine.
ASKED = {"max_download": "150MB", "ctx": 2048, "slots": "auto", "threads": 1}


@pytest.fixture(scope="module")
def choosing(boxes: Boxes) -> Boxes:
    """Each with the model that is the best for the machine that it is told to be."""
    boxes.serve(None, **ASKED)
    return boxes


def selected(home: os.PathLike[str], profile: str) -> str:
    """What `edgellm auto-select --json` prints for a profile."""
    flags = ["--max-download", "150MB", "--ctx", "2048", "--slots", "auto", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "edgellm", "auto-select", *flags, "--profile", profile, "--json"],
        env=os.environ | {"EDGELLM_HOME": str(home)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def formatted(preview: str) -> str:
    return msgspec.json.format(preview.encode(), indent=2).decode()


def answering(client: httpx.Client, text: str) -> str:
    """The box that a new conversation comes to."""
    said = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": 2})
    assert said.status_code == 200, said.text
    return str(said.headers["x-edgellm-node"])


def test_each_box_plans_as_auto_select_does_for_its_machine(choosing: Boxes) -> None:
    previews = {name: choosing.rows()[name].preview for name in PROFILES}

    for name, profile in PROFILES.items():
        assert formatted(previews[name]) == selected(choosing.home, profile)
    assert len(set(previews.values())) == 3


def test_the_key_is_asked_for_and_plan_and_metrics_name_the_node(choosing: Boxes) -> None:
    with httpx.Client(base_url=choosing.url, timeout=240) as stranger:
        assert stranger.get("/edgellm/plan").status_code == 401
        assert stranger.get("/health").status_code == 200
    with choosing.client() as client:
        plan = client.get("/edgellm/plan")
        assert plan.json()["node"] == plan.headers["x-edgellm-node"]
        assert plan.json()["node"] in PROFILES
        metrics = client.get("/metrics")
        assert f'edgellm_ready{{node="{metrics.headers["x-edgellm-node"]}",model="edgellm"}} 1' in metrics.text


def test_a_box_that_joins_serves(choosing: Boxes) -> None:
    """By a plan of its own, too."""
    choosing.add("fourth", **{PROFILE_VARIABLE: FOURTH})

    rows = choosing.wait_for(4)

    assert rows["fourth"].plan["state"] == "ready"
    assert formatted(rows["fourth"].preview) == selected(choosing.home, FOURTH)
    assert len({row.preview for row in rows.values()}) == 4
    with choosing.client() as client:
        numbers = itertools.count()
        wait_until(lambda: answering(client, f"Count from {next(numbers)}.") == "fourth")


def test_status_shows_boxes_plans_reasons_and_load(choosing: Boxes) -> None:
    rows = choosing.rows()
    wait_until(lambda: not any(row.n_busy for row in choosing.rows().values()))

    told = CliRunner().invoke(command, ["status", "--address", "of this process"])
    report = json.loads(CliRunner().invoke(command, ["status", "--json", "--address", "of this process"]).stdout)

    assert told.exit_code == 0
    assert report["deployment"] == "HEALTHY"
    assert {box["name"] for box in report["boxes"]} == set(rows)
    for row in rows.values():
        assert row.node in told.stdout
        assert row.plan["model"] in told.stdout
    (replica,) = report["boxes"][0]["replicas"]
    assert replica["plan"]["reasons"]
    assert (replica["n_busy"], replica["n_slots"]) == (0, rows[replica["node"]].n_slots)


def test_a_worker_dies_with_its_replica_which_is_replaced(choosing: Boxes) -> None:
    row = choosing.rows()["fourth"]
    replica = process_of(row)
    workers = replica.children(recursive=True)
    assert workers

    replica.kill()

    psutil.wait_procs(workers, timeout=120)
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    wait_until(lambda: choosing.rows().get("fourth", row).replica != row.replica)
    choosing.wait_for(4)


def test_another_model_takes_the_place_and_running_answers_end(choosing: Boxes) -> None:
    """Without a new process: `reconfigure`."""
    before = {row.node: process_of(row).pid for row in choosing.rows().values()}
    body = {"messages": [{"role": "user", "content": "Count to a hundred."}], "max_tokens": 60, "stream": True}
    with choosing.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        choosing.serve("echo")
        rest = [line for line in lines if line]

    assert first.startswith("data: ")
    assert rest[-1] == "data: [DONE]"
    assert {row.node: process_of(row).pid for row in choosing.rows().values()} == before
    with choosing.client() as client:
        said = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hello"}]})
    assert said.json()["choices"][0]["message"]["content"] == "hello"


def test_a_node_that_dies_is_gone_and_the_others_answer(choosing: Boxes) -> None:
    choosing.kill("fourth")

    choosing.wait_for(3)
    with choosing.client() as client:
        for _ in range(8):
            said = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
            assert said.status_code == 200
            assert said.headers["x-edgellm-node"] in PROFILES
    status = CliRunner().invoke(command, ["status", "--json", "--address", "of this process"])
    alive = [box["alive"] for box in json.loads(status.stdout)["boxes"]]
    assert alive[:3] == [True] * 3
    assert True not in alive[3:]
    assert alive[3:]


def test_a_box_that_cannot_load_what_is_served_tells_why(choosing: Boxes) -> None:
    """And nobody waits for ever; the others serve it."""
    choosing.add("poor", EDGELLM_ECHO_LOAD_S="not a number")
    wait_until(front.failures, 240)

    with pytest.raises(deployment.BoxFailed) as raised:  # its words are the box's
        choosing.serve("echo")

    assert raised.value.node == "poor"
    told = CliRunner().invoke(command, ["status", "--json", "--address", "of this process"])
    boxes = {box["name"]: box for box in json.loads(told.stdout)["boxes"] if box["alive"]}
    assert [failure["node"] for failure in boxes["poor"]["failures"]] == ["poor"]
    assert [boxes[name]["failures"] for name in PROFILES] == [[]] * 3
    with choosing.client() as client:
        assert client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}).is_success
    choosing.kill("poor")


@pytest.mark.slow(60)
def test_the_commands_start_a_cluster_with_tls_and_end_it(tmp_path: Path) -> None:
    """With certificates of an authority of its own, as between machines that others can listen to."""
    from ray.util import get_node_ip_address
    from support.certificates import tls_variables
    from support.ray_cluster import free_port

    port, http = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"EDGELLM_HOME": str(tmp_path)}
    tls = tls_variables(tmp_path, {"127.0.0.1", get_node_ip_address()})

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgellm", "cluster", *words], env=env | tls, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        run("up", "--port", str(port))
        assert ssl.get_server_certificate(("127.0.0.1", port)) == (tmp_path / "box.crt").read_text()
        env["EDGELLM_RAY_NODE"] = "second"
        run("join", f"127.0.0.1:{port}")
        run("serve", "echo", "--port", str(http))
        said = httpx.post(
            f"http://127.0.0.1:{http}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hello"}]},
            timeout=60,
        )
        assert said.json()["choices"][0]["message"]["content"] == "hello"
        wait_until(lambda: "second" in run("status"))
    finally:
        ended = run("down")
    assert "Ended" in ended
