"""What a client of a cluster sees of all of its boxes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("aiohttp")
from edgellm_ray import board as boards
from edgellm_ray.board import Board, Failure, Row
from playwright.sync_api import Page, expect
from support.browser import browser, page
from support.cluster_front import KEY, OneBox, front, one_box

from edgellm.server import metrics, state

__all__ = ["browser", "page"]  # fixtures


@pytest.fixture(scope="module")
def box() -> Iterator[OneBox]:
    with one_box(KEY) as box:
        yield box


def row(box: OneBox, node: str) -> Row:
    return Row(
        replica=node,
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
    board.fail(Failure(node="attic", node_id="attic", asked="", code="nothing_fits", reason="too little memory"))
    board.fail(Failure(node="hall", node_id="hall", asked="", code="nothing_fits", reason="too little memory"))
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
