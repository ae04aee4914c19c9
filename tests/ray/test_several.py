"""Several models on the boxes of one cluster: each box takes what it has memory for, behind one front."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from edgellm_ray import deployment, front, services, state
from edgellm_ray.board import Row
from edgellm_ray.commands import command
from edgellm_ray.config import ModelConfig
from edgellm_ray.placement import NoRoom
from edgellm_ray.scaling import Replicas
from support.ray_cluster import Boxes, process_of
from support.ray_streams import Stream, endless
from support.waiting import wait_until

from edgellm.types.options import LaunchOptions

pytestmark = [pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
# It takes some 250 MiB: one of them fits in the narrow box, two in the roomy one.
MEMORY_MIB = {"narrow": 400, "roomy": 700}


@pytest.fixture(scope="module")
def two(cluster: Boxes) -> Iterator[Boxes]:
    """Boxes with so much memory, on which nothing is served."""
    cluster.clear()
    cluster.restore([])
    for name, memory_mib in MEMORY_MIB.items():
        cluster.add(name, memory_mib=memory_mib, EDGELLM_ECHO_STEP_S="0.02")
    yield cluster
    cluster.clear()


def serve(name: str, model: str = MODEL, ctx: int = 1024) -> None:
    options = LaunchOptions.of(ctx=ctx, slots=1, threads=1)
    wanted = [ModelConfig(name=name, model=model, options=options, min_speed=0.0)]
    services.serve(
        wanted, services.Where(), replicas=Replicas.of("boxes"), queue=64, aliases=(), any_model=False,
        tell=lambda _: None,
    )  # fmt: skip


def rows(service: str) -> dict[str, Row]:
    """Of its replicas, by node."""
    return {row.node: row for row in front.rows() if row.service.name == service}


def run(*words: str) -> str:
    done = CliRunner().invoke(command, [*words, "--address", "of this process"])
    assert done.exit_code == 0, done.output
    return done.stdout


def asked(boxes: Boxes, **fields: str) -> tuple[int, str]:
    """The status of an answer, and which box gave it."""
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4, **fields}
    with boxes.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.headers.get("x-edgellm-node", "")


def test_a_model_that_no_box_can_load_leaves_nothing_behind(two: Boxes) -> None:
    """Of a file that is on no box, all of them say so."""
    with pytest.raises(deployment.DeployFailed):  # its words are the boxes'
        serve("nowhere", "/nowhere/model.gguf")

    assert state.report().deployment == "NOT SERVED"
    front.start(two.front)


def test_a_second_model_goes_to_the_boxes_that_have_room(two: Boxes) -> None:
    serve("chat")
    wait_until(lambda: rows("chat").keys() == MEMORY_MIB.keys(), 240)

    serve("second")

    assert rows("second").keys() == {"roomy"}
    taken = [row.memory_bytes for service in ("chat", "second") for row in rows(service).values()]
    assert all(100 < n_bytes / 1024**2 < 350 for n_bytes in taken)


def test_the_refusal_has_the_numbers_of_each_box(two: Boxes) -> None:
    with pytest.raises(NoRoom) as raised:  # its words are those of memory here
        serve("third")

    told = {room.node: room for room in raised.value.rooms}
    for name, memory_mib in MEMORY_MIB.items():
        here = [row for row in front.rows() if row.node == name]
        assert told[name].budget_bytes == memory_mib * 1024**2
        assert {entry.name: entry.n_bytes for entry in told[name].others} == {
            row.service.name: row.memory_bytes for row in here
        }
        assert told[name].free_bytes == told[name].budget_bytes - sum(row.memory_bytes for row in here)
    assert {one.name for one in front.services()} == {"chat", "second"}


def test_names_lead_to_their_model_and_all_are_listed(two: Boxes) -> None:
    serve("parrot", "echo")  # takes no memory that is counted

    assert asked(two, model="second") == (200, "roomy")
    assert asked(two, model="chat")[0] == asked(two, model="default")[0] == asked(two)[0] == 200
    assert asked(two, model="nobody")[0] == 404
    with two.client() as client:
        said = client.post(
            "/v1/chat/completions", json={"model": "parrot", "messages": [{"role": "user", "content": "hello"}]}
        )
        models = [model["id"] for model in client.get("/v1/models").json()["data"]]
        tags = [model["name"] for model in client.get("/api/tags").json()["models"]]
        named = client.get("/v1/models/parrot").json()["id"]
        metrics = client.get("/metrics").text
        boxes = client.get("/edgellm/plan").json()["boxes"]
    assert (said.json()["choices"][0]["message"]["content"], named) == ("hello", "parrot")
    assert {"chat", "second", "parrot", "echo"} < set(models)
    assert len(models) == len(set(models))
    assert models == tags
    assert 'edgellm_ready{node="roomy",model="second"} 1' in metrics
    placed = {(box["node"], box["service"]) for box in boxes}
    assert placed == {(row.node, row.service.name) for row in front.rows()}
    assert len(placed) == 5


def test_conversations_of_one_model_stay_and_its_streams_go_on_elsewhere(two: Boxes) -> None:
    question = "Pack my box with five dozen liquor jugs. " * 6
    body = {"model": "parrot", "messages": [{"role": "user", "content": question}], "max_tokens": 400, "seed": 7}
    streams = [Stream(two, body, f"stream {number}") for number in range(4)]
    wait_until(lambda: all(len(stream.text) > 5 for stream in streams))
    again = [Stream(two, body, f"stream {number}") for number in range(4)]
    wait_until(lambda: all(stream.node for stream in again))
    assert [stream.node for stream in again] == [stream.node for stream in streams]

    process_of(rows("parrot")[streams[0].node]).kill()

    assert endless([*streams, *again]) == []
    assert [(stream.text, stream.error) for stream in streams] == [(question, None)] * 4
    wait_until(lambda: rows("parrot").keys() == MEMORY_MIB.keys(), 240)


def test_status_tells_of_each_model_and_of_the_memory_that_is_left(two: Boxes) -> None:
    told, report = run("status"), json.loads(run("status", "--json"))

    assert [(one["name"], one["state"]) for one in report["services"]] == [
        ("chat", "HEALTHY"), ("second", "HEALTHY"), ("parrot", "HEALTHY"),
    ]  # fmt: skip
    assert {box["name"]: box["memory_mib"] for box in report["boxes"] if box["alive"]} == MEMORY_MIB
    for service in ("chat", "second", "parrot"):
        assert service in told


def test_one_of_them_changes_and_the_others_stay(two: Boxes) -> None:
    """In the same process, as always."""
    before = {row.replica: process_of(row).pid for row in front.rows() if row.service.name == "chat"}
    others = {row.replica for row in front.rows() if row.service.name != "chat"}

    serve("chat", "echo")

    wait_until(lambda: {row.plan["model"] for row in rows("chat").values()} == {"echo"}, 240)
    assert {row.replica for row in rows("chat").values()} == before.keys()
    assert others <= {row.replica for row in front.rows()}
    assert asked(two, model="chat")[0] == asked(two, model="second")[0] == 200
    serve("third")  # in the room that it left
    assert rows("third").keys() == MEMORY_MIB.keys()


def test_one_of_them_is_taken_away(two: Boxes) -> None:
    run("down", "third")
    run("down", "parrot")

    assert {one.name for one in front.services()} == {"chat", "second"}
    assert asked(two, model="parrot")[0] == 404
    assert asked(two, model="second") == (200, "roomy")


def test_a_box_that_leaves_takes_no_other_replica_along(two: Boxes) -> None:
    before = {row.replica for row in front.rows() if row.node == "roomy"}

    two.kill("narrow")

    wait_until(lambda: {row.node for row in front.rows()} == {"roomy"}, 240)
    wait_until(lambda: state.report().deployment == "HEALTHY", 240)
    assert {row.replica for row in front.rows()} == before
    assert asked(two, model="second") == (200, "roomy")
