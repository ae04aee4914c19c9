"""The page in a real headless Chromium: a chat, its states, and what is told of the model."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from playwright.sync_api import Browser, Page, expect
from support.browser import answered, ask, count_kept, last_answer, ready, reloaded, script, watched
from support.live_server import Live, Servers, echo_plan
from support.tiny_bert import TinyBert
from support.waiting import wait_until

from edgellm.app import launch
from edgellm.server.names import ModelNames
from edgellm.types.basis import Predicted
from edgellm.types.criterion import Stated
from edgellm.types.model_reason import ModelNamed
from edgellm.types.plan import Candidate, Decision, Footprint, Rate, Rejection
from edgellm.types.reason import MemoryNeeded, SourceSilent
from edgellm.types.request import SelectionRequest

pytestmark = pytest.mark.browser


def test_a_chat_by_keyboard_alone(page: Page, live: Live) -> None:
    ready(page, live)
    page.keyboard.type("Grüße, 世界! 🎈")
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text("Grüße, 世界! 🎈")
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")

    expect(last_answer(page)).to_have_text("line one\nline two", use_inner_text=True)
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator(".turn.assistant .speed").last).to_contain_text("tok/s")
    expect(page.locator("#text")).to_have_value("")


def test_the_menu_begins_with_what_is_served_and_keeps_what_is_chosen(page: Page, serve: Servers) -> None:
    plan = replace(echo_plan(4096, 1), answers_with=(("mini", 1.0),))
    sent = script(page, {"content": "yes"})
    ready(page, serve(plan, names=ModelNames(("gpt-4o",))))
    menu = page.locator("#models")
    expect(menu.locator("option")).to_have_text(["echo:mini", "echo", "gpt-4o"])
    answered(page, "one")
    expect(page.locator("#model")).to_have_text("echo:mini")

    menu.select_option("echo")
    expect(page.locator("#model")).to_have_text("echo")
    reloaded(page)
    expect(menu).to_have_value("echo")
    answered(page, "two")
    menu.select_option("echo:mini")
    reloaded(page)
    expect(menu).to_have_value("echo:mini")
    assert page.evaluate("JSON.parse(localStorage.getItem('edgellm-settings')).model") == ""  # whatever is served next

    assert [body["model"] for body in sent] == ["echo:mini", "echo"]


def test_the_models_own_sampling_counts_unless_another_is_typed(page: Page, live: Live) -> None:
    sent = script(page, {"content": "yes"})
    ready(page, live)
    expect(page.locator("#temperature")).to_have_attribute("placeholder", "0.8")
    answered(page, "one")
    page.click("#open-settings")
    page.fill("#temperature", "0.3")
    page.fill("#system", "Be brief.")
    page.keyboard.press("Escape")
    answered(page, "two")

    assert [body.get("temperature") for body in sent] == [None, 0.3]
    assert [body["messages"][0]["role"] for body in sent] == ["user", "system"]
    expect(page.locator("#facts")).to_contain_text("top k 40")


def test_an_answer_streams_and_stops(page: Page, serve: Servers) -> None:
    live = serve(step_s=0.1)
    ready(page, live)
    ask(page, "x" * 1900)  # the answer would hold the slot for longer than "hi" is waited for
    expect(last_answer(page)).to_contain_text("xxx")
    page.click("#stop")

    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".turn.assistant .note")).to_have_text("Stopped.")
    ask(page, "hi")
    expect(last_answer(page)).to_have_text("hi")


@pytest.mark.slow(3)
def test_escape_stops_too(page: Page, serve: Servers) -> None:
    ready(page, serve(step_s=0.02))
    ask(page, "x" * 1000)
    expect(last_answer(page)).to_contain_text("xxx")
    page.keyboard.press("Escape")

    expect(page.locator(".turn.assistant .note")).to_have_text("Stopped.")


@pytest.mark.slow(3)
def test_an_answer_that_is_stopped_before_it_begins_can_be_asked_for_again(page: Page, live: Live) -> None:
    page.route("**/v1/chat/completions", lambda route: None)  # the server is silent
    ready(page, live)
    ask(page, "hello")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".turn.assistant .note")).to_have_text("Stopped.")
    wait_until(lambda: count_kept(page) == 2)
    page.reload()
    expect(page.locator(".turn.assistant .note")).to_have_text("Stopped.")
    script(page, {"content": "hi"})
    page.get_by_label("Answer again").click()

    expect(last_answer(page)).to_have_text("hi")
    expect(page.locator(".turn.assistant")).to_have_count(1)
    expect(page.locator(".place")).to_have_count(0)  # what is empty is no other version


@pytest.mark.slow(3)
def test_after_a_failure_the_earlier_answer_stays(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "one")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=500, body="x"))
    page.get_by_label("Answer again").click()
    expect(page.locator("#problem")).to_be_visible()
    expect(last_answer(page)).to_have_text("one")
    sent = script(page, {"content": "another"})
    page.click("#retry")
    expect(last_answer(page)).to_have_text("another")

    assert [message["role"] for message in sent[0]["messages"]] == ["user"]
    page.get_by_label("Previous version").click()
    expect(last_answer(page)).to_have_text("one")


@pytest.mark.slow(2)
def test_an_error_shows_the_way_out(page: Page, live: Live) -> None:
    ready(page, live)
    ask(page, "y" * 5000)

    expect(page.locator("#problem-text")).to_contain_text("shorten the prompt")
    expect(page.locator("#retry")).to_be_visible()
    page.click("#new-chat")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator(".turn")).to_have_count(0)


@pytest.mark.slow(7)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_crash_is_told_and_can_be_tried_again(page: Page, serve: Servers) -> None:
    live = serve(step_s=0.1)
    ready(page, live)
    ask(page, "z" * 40)
    expect(last_answer(page)).to_contain_text("zzz")
    os.kill(live.llm._session.pid, signal.SIGKILL)

    expect(page.locator("#problem-text")).to_contain_text("died")
    wait_until(lambda: live.llm.state == "ready")
    page.click("#retry")
    expect(last_answer(page)).to_have_text("z" * 40)
    expect(page.locator(".turn")).to_have_count(2)


@pytest.mark.slow(3)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_loading_is_shown_and_ends(page: Page, serve: Servers) -> None:
    live = serve(load_s=1.0, wait=False)
    live.hold()
    page.goto(live.url)
    expect(page.locator("#state-text")).to_have_text("the model is loading")
    expect(page.locator("#empty-title")).to_have_text("The model is loading")
    expect(page.locator("#send")).to_be_disabled()

    live.release()
    expect(page.locator("#state-text")).to_have_text("ready")
    expect(page.locator("#send")).to_be_enabled()


def test_what_runs_here_and_why(page: Page, serve: Servers) -> None:
    footprint = Footprint(2**28, 2**20, 2**20, 2**20)
    copied = structs.replace(footprint, repack_bytes=2**27, reclaimable_bytes=2**27)
    rate = Rate(12.5, 9.0, 15.0, Predicted(1, "test"))
    best = Candidate("model-a", 1, "Q4_0", "echo", 4096, 1, 10, footprint, rate, rate, 50.0, 40.0, 60.0, "file:/a")
    rejected = tuple(Rejection(f"model-{n}", "Q8_0", "fits_memory", Stated("<b>too big</b>")) for n in range(150))
    decision = Decision(
        best,
        (Stated("why"),),
        (replace(best, model="model-b"),),
        rejected,
        replace(best, model="model-w", footprint=copied),
    )
    needed = MemoryNeeded(270 * 2**20, 2**30)
    plan = replace(echo_plan(), footprint=footprint, reasons=(Stated("Because <i>so</i>."), needed))
    ready(page, serve(plan, decision=decision))
    facts = page.locator("#facts")

    expect(page.locator("#model")).to_contain_text("echo")
    expect(page.locator("#reasons li")).to_have_text(["Memory 270 MiB of 1.00 GiB.", "Because <i>so</i>."])
    expect(facts).to_contain_text("4,096 tokens")
    expect(page.locator("#memory-told")).to_contain_text("predicted 259 MiB")
    expect(page.locator("#memory-told")).to_contain_text("with a margin 270 MiB are counted; budget 1.00 GiB")
    expect(page.locator("#speed-told")).to_contain_text("predicted 13 (9.0 to 15)")
    expect(page.locator("#wish")).to_contain_text("model-w")
    expect(page.locator("#wish")).to_contain_text("259 MiB")  # not counted twice, in the file and as copied
    page.click("#runners-up summary")
    expect(page.locator("#runners-up tbody tr")).to_contain_text(["model-a", "model-b"])
    page.click("#rejected > summary")
    page.click("#rejected details summary")
    expect(page.locator("#rejected li").first).to_contain_text("<b>too big</b>")
    expect(page.locator("#rejected li").last).to_contain_text("50 more")


@pytest.mark.slow(3)
def test_what_was_chosen_comes_first_and_silent_sources_last(page: Page, serve: Servers) -> None:
    chosen = ModelNamed("echo", "echo")
    silent = SourceSilent("hf", "[Errno -2] Name or service not known")
    ready(page, serve(replace(echo_plan(), reasons=(silent, Stated("Threads: 4."), chosen))))

    expect(page.locator("#reasons li")).to_contain_text(["Model", "Threads"])
    expect(page.locator("#sources li")).to_be_hidden()
    page.click("#sources summary")
    expect(page.locator("#sources li")).to_contain_text("[Errno -2]")


@pytest.mark.slow(2)
def test_speeds_of_many_digits_are_not_clipped(page: Page, live: Live) -> None:
    page.add_init_script("""
        window.labels = {};
        const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
            if (this.textAlign === "right") labels[text] = x - this.measureText(text).width;
            draw.call(this, text, x, y);
        };
    """)
    activity = {"n_slots": 1, "n_busy": 0, "n_waiting": 0, "resident_bytes": None}
    page.route(
        "**/edgellm/activity*", lambda route: route.fulfill(json={**activity, "answers": [{"decode_tok_s": 123_456.0}]})
    )
    ready(page, live)
    expect(page.locator("#speed-told")).to_contain_text("last answer")
    page.wait_for_function("'100,000' in labels")

    labels = page.evaluate("labels")
    assert min(labels.values()) >= 0, labels


@pytest.mark.slow(3)
def test_boxes_that_answer_together_are_listed_with_reasons_and_load(page: Page, live: Live) -> None:
    load = {"n_slots": 2, "n_busy": 1, "n_waiting": 3, "n_answered": 1200, "decode_tok_s": 12.3}
    plan = {"model": "echo", "quant": "", "backend": "echo", "reasons": ["Model: echo, as asked.", "Threads: 4."]}
    well = {"node": "kitchen", "state": "ready", "reason": "", **plan, **load}
    ill = {**well, "node": "<b>hall</b>", "state": "failed", "reason": "its file is cut short"}
    activity = {"n_slots": 1, "n_busy": 0, "n_waiting": 0, "resident_bytes": None, "answers": [], "boxes": [well, ill]}
    page.route("**/edgellm/activity*", lambda route: route.fulfill(json=activity))
    ready(page, live)
    boxes = page.locator(".boxes > ul > li")

    expect(boxes).to_have_count(2)
    expect(boxes.nth(0)).to_contain_text("1 of 2 busy, 3 waiting, 12 tok/s, 1,200 answered")
    expect(boxes.nth(1)).to_contain_text("failed: its file is cut short")
    expect(boxes.nth(1).locator("p > b")).to_have_text("<b>hall</b>")
    boxes.nth(0).locator("summary").click()
    expect(boxes.nth(0).locator("details li")).to_have_text(["Model: echo, as asked.", "Threads: 4."])
    with page.expect_response("**/edgellm/activity*"):
        pass
    expect(boxes.nth(0).locator("details")).to_have_attribute("open", "")


@pytest.mark.slow(2)
def test_without_a_finished_answer_none_is_told_of(page: Page, serve: Servers) -> None:
    ready(page, serve())

    expect(page.locator("#speed-told")).to_contain_text("no finished answer yet")


def test_a_key_is_asked_for_and_kept(page: Page, serve: Servers) -> None:
    ready(page, serve(api_key="right"))
    expect(page.locator("#key-form")).to_be_visible()
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    expect(page.locator("#problem-text")).to_have_text("Wrong key")
    page.fill("#key", "right")
    page.press("#key", "Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()
    ask(page, "hello")

    expect(last_answer(page)).to_have_text("hello")


@pytest.mark.slow(3)
def test_a_base_model_continues_text(page: Page, serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    live = serve()
    monkeypatch.setattr("edgellm.sdk.client.EdgeLLM.info", replace(live.llm.info, chat_template=None))
    ready(page, live)
    expect(page.locator("#empty-text")).to_contain_text("base model")
    ask(page, "Once upon a time")

    expect(last_answer(page)).to_have_text("Once upon a time")


def test_it_fits_a_phone(browser: Browser, live: Live) -> None:
    for page in watched(browser, viewport={"width": 360, "height": 640}, color_scheme="dark"):
        ready(page, live)
        ask(page, "w" * 500)
        expect(last_answer(page)).to_have_text("w" * 500)
        assert page.evaluate("document.documentElement.scrollWidth <= 360")
        page.click("#why-toggle")
        expect(page.locator("#why")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#why")).to_be_hidden()
        page.click("#list-toggle")
        expect(page.locator("#conversations li")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth <= 360")
        page.click("#new-chat")
        expect(page.locator("#list")).to_be_hidden()
        expect(page.locator("#text")).to_be_focused()


def test_the_documentation_works_without_a_network(page: Page, live: Live) -> None:
    page.goto(f"{live.url}/docs")

    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    expect(page.locator("body")).to_contain_text("/v1/chat/completions")


def test_a_model_that_only_embeds_is_said_to(page: Page, serve: Servers, tmp_path: Path) -> None:
    live = serve(launch.model_plan(str(TinyBert().write(tmp_path / "tiny-bert")), SelectionRequest()))
    ready(page, live)
    expect(page.locator("#empty-title")).to_have_text("Nothing to chat with")
    expect(page.locator("#empty-text")).to_contain_text("/v1/embeddings")
    expect(page.locator("#text")).to_be_disabled()
