"""What a client of a cluster sees of all of its boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest

pytest.importorskip("aiohttp")
from edgellm_ray import board as boards
from edgellm_ray import lists
from edgellm_ray.board import Board, Failure, Row, Service
from edgellm_ray.config import app_of
from playwright.sync_api import Page, expect
from support.browser import browser, page
from support.cluster_front import KEY, SERVICE, OneBox, front, one_box
from support.refusals import refuses

from edgellm.errors import UnknownModel
from edgellm.server import metrics, state
from edgellm.server.activity import Totals

__all__ = ["browser", "page"]  # fixtures


@pytest.fixture(scope="module")
def box() -> Iterator[OneBox]:
    with one_box(KEY) as box:
        yield box


def row(box: OneBox, node: str, service: str = SERVICE) -> Row:
    return Row(
        replica=f"{node} {service}",
        service=Service(name=service, names=(service,), lists=lists.of(box.served)),
        node=node,
        node_id=node,
        ip="127.0.0.1",
        plan=state.describe(box.served),
        preview=None,
        fingerprint=box.served.fingerprint,
        decode_tok_s=5.0,
        n_slots=4,
        n_busy=1,
        n_waiting=2,
        n_answered=3,
        metrics=metrics.metrics(box.served).replace('"one"', f'"{node}"'),
    )


def board_of(*services: Service) -> Board:
    """One on which a box told these."""
    board = Board()
    for service in services:
        board._services[service.name] = {"hall": service}
    return board


@pytest.fixture
def board(box: OneBox, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(boards, "STALE_S", 3600.0)  # nobody tells it again
    board = Board()
    for node in ("hall", "kitchen"):
        board.put(row(box, node))
    return board


def test_plan_activity_and_metrics_are_those_of_all_boxes(box: OneBox, board: Board) -> None:
    with front(box, board=board) as client:
        plan, activity = client.get("/edgellm/plan").json(), client.get("/edgellm/activity").json()
        page = client.get("/metrics").text

    assert [one["node"] for one in plan["boxes"]] == ["hall", "kitchen"]
    assert plan["boxes"][0]["reasons"] == plan["reasons"] != []
    assert (plan["node"], plan["boxes"][0]["n_busy"]) == ("one", 1)
    assert (activity["n_slots"], activity["n_busy"], activity["n_waiting"]) == (8, 2, 4)
    assert all(f'edgellm_slots{{node="{node}"}} 1' in page for node in ("hall", "kitchen"))
    assert page.count("# HELP edgellm_slots ") == 1


def test_whoever_has_no_key_sees_nothing_of_them(box: OneBox, board: Board) -> None:
    with front(box, board=board) as client:
        for path in ("/edgellm/plan", "/edgellm/activity", "/metrics"):
            assert "hall" not in client.get(path, headers={"authorization": ""}).text


def test_a_box_that_cannot_load_what_is_asked_for_says_why(box: OneBox, board: Board) -> None:
    board.fail(
        Failure(
            service=SERVICE, node="attic", node_id="attic", asked="", code="nothing_fits", reason="too little memory"
        )
    )
    board.fail(
        Failure(service=SERVICE, node="hall", node_id="hall", asked="", code="nothing_fits", reason="too little memory")
    )
    board.put(row(box, "hall"))  # it could, later

    with front(box, board=board) as client:
        boxes = client.get("/edgellm/plan").json()["boxes"]

    assert [(one["node"], one["state"]) for one in boxes] == [
        ("hall", "ready"),
        ("kitchen", "ready"),
        ("attic", "failed"),
    ]
    assert boxes[-1]["reason"] == "too little memory"
    assert boxes[-1].keys() == boxes[0].keys()
    board.asks_anew("another")
    assert board.failures()
    board.asks_anew(SERVICE)
    assert not board.failures()


@pytest.mark.parametrize(
    ("model", "app"),
    [("chat", "chat"), ("search:latest", "search"), (None, "chat"), ("default", "chat"), ("edgellm", "chat")],
)
def test_a_name_leads_to_the_service_that_has_it_and_no_name_to_the_first(model: str | None, app: str) -> None:
    board = board_of(Service(name="search", order=1, names=("search",)), Service(name="chat", names=("chat",)))

    assert board.app(model) == app


def test_a_name_that_no_service_has_leads_to_one_that_takes_all_or_is_refused() -> None:
    named = Service(name="chat", names=("chat",))

    assert board_of(named, Service(name="auto", order=1, names=("m", "auto"), any_name=True)).app("other") == "auto"
    assert board_of(named).app("other") == "chat"  # which says how it is called
    with refuses(UnknownModel, param="model"):
        board_of(named, Service(name="search", order=1, names=("search",))).app("other")


def test_services_outlive_their_boxes_until_they_are_taken_away(box: OneBox, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    board.put(row(box, "hall", "chat"))
    board.put(row(box, "hall", "search"))
    monkeypatch.setattr(boards, "STALE_S", 0.0)

    assert (board.rows(), board.app("search")) == ([], "search")
    board.forget("search")
    assert board.app("search") == "chat"


def test_a_box_that_left_is_no_part_of_the_lists_while_another_lives(
    box: OneBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board()
    old, new = Service(name="chat", names=("old",)), Service(name="chat", names=("new",))
    attic = msgspec.structs.replace(row(box, "attic"), replica="1", node_id="1", service=old)
    board.put(attic)
    later = boards.time.monotonic() + boards.STALE_S
    monkeypatch.setattr(boards.time, "monotonic", lambda: later)
    assert board.services() == [old]

    board.put(msgspec.structs.replace(attic, replica="2", node_id="2", service=new))

    assert board.services() == [new]
    assert board.app("old") == "chat"


def test_conversations_are_shared_out_by_speeds_of_many_tokens(box: OneBox, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = [Totals(n_steps=boards.LEARNED_TOKENS - less, answer_s=100.0) for less in (1, 0)]
    weights = []
    for one in totals:
        monkeypatch.setattr(box.served.activity, "totals", one)
        weights.append(boards.weight(box.served))

    assert weights == [0.0, boards.LEARNED_TOKENS / 100]


def test_names_that_are_no_part_of_a_path_have_an_application_too() -> None:
    names = ["qwen3-4b", "qwen3-4b:Q4_K_M", "/models/a b.gguf", "hf://owner/repo", "...", "x" * 200]
    apps = [app_of(name) for name in names]

    assert apps[0] == "qwen3-4b"
    assert len(set(apps)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", app) for app in apps)


def test_lists_of_models_are_those_of_all_services_in_every_dialect(box: OneBox, board: Board) -> None:
    listed = box.served.names
    box.served.names = listed.with_alias("search")
    board.put(row(box, "hall", "search"))
    box.served.names = listed
    with front(box, board=board) as client:
        openai = client.get("/v1/models").json()["data"]
        anthropic = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
        tags, running = client.get("/api/tags").json()["models"], client.get("/api/ps").json()["models"]

    assert [model["id"] for model in openai] == ["echo", "search"]
    assert [model["id"] for model in anthropic["data"]] == ["echo", "search"]
    assert (anthropic["first_id"], anthropic["last_id"]) == ("echo", "search")
    assert [model["name"] for model in tags] == ["echo", "search"]
    assert [model["name"] for model in running] == ["echo"]


def test_where_no_box_has_said_anything_the_answer_is_that_of_one(box: OneBox) -> None:
    with front(box) as client:
        assert client.get("/edgellm/activity").json()["n_slots"] == box.served.llm.plan.settings.n_slots


@pytest.mark.browser
def test_the_page_lists_them(box: OneBox, board: Board, page: Page) -> None:
    with front(box, board=board) as client:
        page.goto(str(client.base_url))
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        boxes = page.locator(".boxes > ul > li")

        expect(boxes).to_have_count(2)
        expect(boxes.nth(1)).to_contain_text("kitchen echo on echo")
        expect(page.locator("#slots-told")).to_contain_text("2 of 8")
