"""What fails on the page, in a real headless Chromium: no text is lost, and each error says what can be done."""

from __future__ import annotations

import json
import os
import signal

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from support.browser import answered, ask, last_answer, ready, reloaded, script, watched
from support.live_server import Live, Servers
from support.relay import Relay
from support.waiting import wait_until

pytestmark = pytest.mark.browser


def fail(page: Page, message: str = "the prompt is too long", *, begin: str = "") -> None:
    """Make answers fail: at once with status 400, or after this text."""

    def answer(route: Route) -> None:
        error = {"error": {"message": message, "code": "context_length_exceeded"}}
        chunk = {"choices": [{"index": 0, "delta": {"content": begin}, "finish_reason": None}]}
        if begin:
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in (chunk, error))
            route.fulfill(content_type="text/event-stream", body=body)
        else:
            route.fulfill(status=400, json=error)

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", answer)


def go_on(page: Page) -> None:
    page.get_by_role("button", name="Go on").click()


@pytest.mark.parametrize("begin", ["", pytest.param(" three", marks=pytest.mark.slow(3))])
def test_an_answer_that_cannot_go_on_stays_and_can_be_tried_again(page: Page, live: Live, begin: str) -> None:
    script(page, {"content": "One two"}, finish="length")
    ready(page, live)
    answered(page, "count")
    fail(page, begin=begin)
    go_on(page)
    expect(page.locator("#problem-text")).to_have_text("the prompt is too long")
    expect(last_answer(page)).to_have_text(f"One two{begin}")
    expect(page.locator(".assistant .note")).to_have_text("Cut off at the longest answer.")
    expect(page.locator(".assistant .speed")).to_contain_text("1 token")
    page.reload()
    expect(last_answer(page)).to_have_text(f"One two{begin}")
    go_on(page)
    expect(page.locator("#problem")).to_be_visible()
    sent = script(page, {"content": " four"})
    page.click("#retry")

    expect(last_answer(page)).to_have_text(f"One two{begin}{begin} four")
    expect(page.locator(".turn")).to_have_count(2)
    assert sent[0]["continue_final_message"] is True


@pytest.mark.slow(3)
def test_text_that_a_failure_ended_stays_as_a_branch(page: Page, live: Live) -> None:
    fail(page, "the worker died", begin="A long answer")
    ready(page, live)
    ask(page, "tell")
    expect(page.locator(".assistant .note")).to_have_text("Ended by an error.")
    script(page, {"content": "another"})
    page.click("#retry")
    expect(last_answer(page)).to_have_text("another")
    page.get_by_label("Previous version").click()

    expect(last_answer(page)).to_have_text("A long answer")


@pytest.mark.slow(3)
def test_try_again_asks_what_failed_and_not_what_came_later(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "one")
    answered(page, "two")
    fail(page)
    page.get_by_label("Answer again").first.click()
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator(".assistant > .text")).to_have_text(["one", "two"])
    sent = script(page, {"content": "another"})
    page.click("#retry")
    expect(page.locator(".assistant > .text")).to_have_text(["another"])

    assert [message["content"] for message in sent[0]["messages"]] == ["one"]


@pytest.mark.slow(3)
def test_an_answer_in_the_middle_goes_on_from_its_own_end(page: Page, live: Live) -> None:
    script(page, {"content": "One"}, finish="length")
    ready(page, live)
    answered(page, "count")
    script(page, {"content": "yes"})
    answered(page, "later")
    sent = script(page, {"content": " two"})
    go_on(page)
    expect(page.locator(".assistant > .text")).to_have_text(["One two", "yes"])

    assert [message["content"] for message in sent[0]["messages"]] == ["count", "One"]


@pytest.mark.slow(7)
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_what_came_before_a_crash_stays(page: Page, serve: Servers) -> None:
    live = serve(step_s=0.1)
    ready(page, live)
    ask(page, "z" * 40)
    expect(last_answer(page)).to_contain_text("zzz")
    os.kill(live.llm._session.pid, signal.SIGKILL)
    expect(page.locator("#problem-text")).to_contain_text("died")
    wait_until(lambda: live.llm.state == "ready")
    page.click("#retry")
    expect(last_answer(page)).to_have_text("z" * 40)
    page.get_by_label("Previous version").click()

    expect(page.locator(".assistant .note")).to_have_text("Ended by an error.")
    expect(last_answer(page)).to_contain_text("zzz")


@pytest.mark.slow(6)
def test_a_server_that_dies_in_an_answer_is_told_and_the_next_message_is_held(page: Page, serve: Servers) -> None:
    relay = Relay(serve(step_s=0.1).url)
    page.goto(relay.url)
    expect(page.locator("#state-text")).to_have_text("ready")
    ask(page, "z" * 600)
    expect(last_answer(page)).to_contain_text("zzz")
    relay.close()
    expect(page.locator("#problem-text")).to_contain_text(
        "The answer was cut off: the server does not answer. Start it again"
    )
    expect(page.locator("#state-text")).to_have_text("the server does not answer")
    expect(last_answer(page)).to_contain_text("zzz")
    ask(page, "still there?")
    expect(page.locator("#held")).to_contain_text("is sent as soon as")
    page.locator("#text").press("End")
    page.keyboard.type("!")
    expect(page.locator("#held")).to_be_empty()
    page.keyboard.press("Enter")
    expect(page.locator("#held")).to_contain_text("is sent as soon as")
    relay.open()

    expect(last_answer(page)).to_have_text("still there?!")
    expect(page.locator("#held")).to_be_empty()
    relay.close()


@pytest.mark.slow(3)
def test_a_connection_that_breaks_is_told_from_a_server_that_died(page: Page, serve: Servers) -> None:
    relay = Relay(serve(step_s=0.1).url)
    page.goto(relay.url)
    expect(page.locator("#state-text")).to_have_text("ready")
    ask(page, "z" * 600)
    expect(last_answer(page)).to_contain_text("zzz")
    relay.cut()

    expect(page.locator("#problem-text")).to_have_text("The answer was cut off: the connection broke. Try again.")
    relay.close()


def box(part: Locator) -> tuple[float, float]:
    """Where it begins and ends, from above."""
    place = part.bounding_box()
    assert place is not None
    return place["y"], place["y"] + place["height"]


@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=["phone", "desk"])
def test_an_error_is_read_whole_and_nothing_lies_on_it(browser: Browser, live: Live, size: tuple[int, int]) -> None:
    for page in watched(browser, viewport={"width": size[0], "height": size[1]}):
        ready(page, live)
        answered(page, "a long story\n" * 60)
        ask(page, "y" * 5000)
        expect(page.locator("#problem-text")).to_contain_text("shorten the prompt")
        page.evaluate("document.getElementById('log').scrollTop = 0")
        expect(page.locator("#to-end")).to_be_visible()

        assert (
            page.evaluate("(({ scrollHeight, clientHeight }) => scrollHeight - clientHeight)(window['problem-text'])")
            == 0
        )
        assert box(page.locator("#to-end"))[1] <= box(page.locator("#problem"))[0]
        page.click("#dismiss")
        assert box(page.locator("#to-end"))[1] <= box(page.locator("#composer"))[0]
        page.click("#to-end")
        expect(page.locator("#to-end")).to_be_hidden()


def test_a_full_context_is_said_to_be(page: Page, serve: Servers) -> None:
    live = serve(ctx=256)
    ready(page, live)
    ask(page, "a" * 200)
    expect(page.locator(".assistant .note")).to_have_text("The context (256 tokens) is full.")
    expect(page.get_by_role("button", name="Go on")).to_have_count(0)
    page.reload()
    expect(page.locator(".assistant .note")).to_have_text("The context (256 tokens) is full.")
    expect(page.locator("#announcer")).to_be_empty()


@pytest.mark.slow(3)
def test_a_longer_context_lets_it_go_on(page: Page, serve: Servers) -> None:
    live = serve(ctx=256)
    ready(page, live)
    ask(page, "a" * 200)
    expect(page.locator("#announcer")).to_contain_text("The context (256 tokens) is full.")
    plan = live.http.get("/edgellm/plan").json()
    plan["settings"]["n_ctx"] = 512
    page.route("**/edgellm/plan*", lambda route: route.fulfill(json=plan))
    page.reload()
    expect(page.locator("#facts")).to_contain_text("512 tokens")
    page.locator("#conversations .title").click()

    expect(page.get_by_role("button", name="Go on")).to_be_visible()


@pytest.mark.slow(3)
def test_what_was_refused_is_left_out_of_later_requests_and_can_be_made_shorter(page: Page, live: Live) -> None:
    ready(page, live)
    fail(page)
    page.set_input_files("#file", [{"name": "a.md", "mimeType": "text/markdown", "buffer": b"much"}])
    expect(page.locator("#files bdi")).to_have_text("a.md")
    ask(page, "What is in it?")
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator(".unanswered")).to_be_visible()
    sent = script(page, {"content": "yes"})
    answered(page, "short")
    assert [message["content"] for message in sent[0]["messages"]] == ["short"]

    page.locator(".user").first.hover()
    page.get_by_label("Edit", exact=True).first.click()
    page.get_by_label("Remove a.md").click()
    page.get_by_label("Your message").press("Enter")
    expect(last_answer(page)).to_have_text("yes")
    expect(page.locator(".turn")).to_have_count(2)
    assert [message["content"] for message in sent[1]["messages"]] == ["What is in it?"]
    page.get_by_label("Previous version").click()
    expect(page.locator(".turn .file bdi")).to_have_text("a.md")
    expect(page.locator(".turn")).to_have_count(3)


@pytest.mark.slow(2)
def test_a_question_without_an_answer_is_told_as_such_after_a_reload(page: Page, live: Live) -> None:
    ready(page, live)
    fail(page)
    ask(page, "why?")
    expect(page.locator("#problem")).to_be_visible()
    reloaded(page)
    expect(page.locator(".unanswered")).to_contain_text("Not answered")
    sent = script(page, {"content": "so"})
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(last_answer(page)).to_have_text("so")
    expect(page.locator(".unanswered")).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()
    assert [message["content"] for message in sent[0]["messages"]] == ["why?"]


def chosen(name: str, text: str) -> dict[str, object]:
    return {"name": name, "mimeType": "application/json", "buffer": text.encode()}


@pytest.mark.slow(3)
def test_a_foreign_file_is_refused_with_no_answer_asked_again(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "one")
    page.set_input_files("#archive", chosen("conversations.json", '[{"title": "x", "mapping": {}}]'))
    expect(page.locator("#problem-text")).to_contain_text("only files exported from this page are read")
    expect(page.locator("#retry")).to_be_hidden()
    own = {"format": "edgellm-conversations", "version": 1, "conversations": []}
    page.set_input_files("#archive", chosen("own.json", json.dumps(own)))

    expect(page.locator("#toast p")).to_contain_text("Imported 0")
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.slow(2)
def test_an_import_leaves_the_error_of_an_answer(page: Page, live: Live) -> None:
    fail(page)
    ready(page, live)
    ask(page, "one")
    expect(page.locator("#retry")).to_be_visible()
    own = {"format": "edgellm-conversations", "version": 1, "conversations": []}
    page.set_input_files("#archive", chosen("own.json", json.dumps(own)))
    expect(page.locator("#toast p")).to_contain_text("Imported 0")

    expect(page.locator("#retry")).to_be_visible()


def test_settings_that_are_wrong_are_marked_and_not_used(page: Page, live: Live) -> None:
    ready(page, live)
    page.click("#open-settings")
    page.fill("#tools", "no JSON")
    for leave in (lambda: page.click("#close-settings"), lambda: page.keyboard.press("Escape")):
        leave()
        expect(page.locator("#settings")).to_be_visible()
        expect(page.locator("#tools")).to_be_focused()
        expect(page.locator("#tools-problem")).not_to_be_empty()
    page.fill("#tools", "")
    page.fill("#temperature", "9")
    expect(page.locator("#number-problem")).to_have_text("Temperature: a number from 0 to 2.")
    expect(page.locator("#temperature")).to_have_attribute("aria-invalid", "true")
    page.fill("#top_k", "1.5")
    expect(page.locator("#number-problem")).to_have_text("Top k: a whole number of at least 0.")
    page.fill("#top_k", "")
    page.click("#close-settings")
    expect(page.locator("#number-problem")).to_have_text("Temperature: a number from 0 to 2.")
    reloaded(page)
    sent = script(page, {"content": "yes"})
    answered(page, "one")
    page.click("#open-settings")
    page.fill("#temperature", "0.33")
    page.click("#close-settings")
    expect(page.locator("#settings")).to_be_hidden()
    answered(page, "two")

    assert [body.get("temperature") for body in sent] == [None, 0.33]
    assert [body.get("tools") for body in sent] == [None, None]


@pytest.mark.slow(2)
def test_settings_kept_from_before_that_are_no_json_are_told(page: Page, live: Live) -> None:
    page.add_init_script("localStorage.setItem('edgellm-settings', JSON.stringify({ tools: 'no JSON' }))")
    ready(page, live)
    ask(page, "one")

    expect(page.locator("#problem-text")).to_contain_text("Tools in the settings must be JSON")
    expect(page.locator(".turn")).to_have_count(1)
