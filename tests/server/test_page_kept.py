"""Conversations of the page: branches, what is kept and exported, files, tools, JSON, and input methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect
from support.browser import answered, ask, last_answer, ready, script, watched
from support.live_server import Live
from support.waiting import wait_until

pytestmark = pytest.mark.browser

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
REST = {"index": 0, "function": {"arguments": '"Bern"}'}}
TOOLS = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'

# Transactions that go on until the page is left, and are undone with it.
WRITE_WITHOUT_END = """() => {
  IDBTransaction.prototype.commit = function () {
    const store = this.objectStore("messages");
    const goOn = () => { store.count().onsuccess = goOn; };
    goOn();
  };
}"""


def answer_is(page: Page, text: str) -> None:
    expect(last_answer(page)).to_have_text(text)


def test_an_edit_and_another_answer_are_branches(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "first")
    page.locator(".user").hover()
    page.get_by_label("Edit", exact=True).click()
    page.get_by_label("Your message").fill("second")
    page.keyboard.press("Enter")
    answer_is(page, "second")
    sent = script(page, {"content": "another"})
    page.get_by_label("Answer again").click()
    answer_is(page, "another")
    assert [message["content"] for message in sent[0]["messages"]] == ["second"]

    expect(page.locator(".user .place")).to_have_text("2 / 2")
    expect(page.locator(".assistant .place")).to_have_text("2 / 2")
    page.get_by_label("Previous version").last.click()
    answer_is(page, "second")
    page.get_by_label("Previous version").first.click()
    answer_is(page, "first")
    expect(page.locator(".user > .text")).to_have_text("first")
    page.get_by_label("Next version").first.click()
    answer_is(page, "another")  # the latest below it


def test_what_is_asked_while_the_page_opens_is_answered(page: Page, live: Live) -> None:
    held: list[Route] = []
    opens = [False]
    page.route("**/health", lambda route: route.continue_() if opens[0] else held.append(route))
    page.goto(live.url)
    wait_until(lambda: page.evaluate("document.querySelector('#send').disabled") and held != [])
    ask(page, "early")
    opens[0] = True
    for route in held:
        route.continue_()
    answer_is(page, "early")


def test_a_turn_outlives_a_reload_right_behind_it(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "first")
    page.reload()
    answer_is(page, "first")


def test_what_the_browser_did_not_write_is_written_by_the_next_page(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "first")
    page.evaluate(WRITE_WITHOUT_END)
    answered(page, "second")
    page.reload()
    answer_is(page, "second")
    page.reload()
    answer_is(page, "second")
    expect(page.locator(".turn")).to_have_count(4)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('unwritten'))") == []


def test_conversations_outlive_a_reload(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "about **cats**")
    page.click("#new-chat")
    answered(page, "about dogs")
    page.reload()
    expect(page.locator("#conversations .title")).to_have_text(["about dogs", "about **cats**"])
    answer_is(page, "about dogs")  # it was open
    page.locator("#conversations .title").last.click()

    answer_is(page, "about cats")
    page.reload()
    answer_is(page, "about cats")
    expect(last_answer(page).locator("strong")).to_have_text("cats")
    expect(page.locator("#conversations .title").last).to_have_attribute("aria-current", "true")
    answered(page, "more")
    expect(page.locator("#conversations .title")).to_have_text(["about **cats**", "about dogs"])


def test_a_conversation_is_renamed_and_deleted_and_comes_back(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "one")
    page.locator("#conversations li").hover()
    page.get_by_label("Rename one").click()
    page.evaluate("new BroadcastChannel('edgellm').postMessage('changed')")  # as another tab does
    page.keyboard.type("A better title")
    page.keyboard.press("Enter")
    expect(page.locator("#conversations .title")).to_have_text("A better title")
    page.locator("#conversations li").hover()
    page.get_by_label("Delete A better title").click()
    expect(page.locator("#conversations li")).to_have_count(0)
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    page.locator("#conversations .title").click()

    answer_is(page, "one")


def test_what_is_exported_can_be_imported(page: Page, live: Live, tmp_path: Path) -> None:
    ready(page, live)
    script(page, {"reasoning_content": "hm"}, {"content": "an *answer*"}, finish="length")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": "Grüße".encode()})
    answered(page, "question")
    page.get_by_label("Answer again").click()
    expect(page.locator(".assistant .place")).to_have_text("2 / 2")
    with page.expect_download() as download:
        page.click("#export")
    first = tmp_path / "first.json"
    download.value.save_as(first)
    page.locator("#conversations li").hover()
    page.get_by_label("Delete question").click()
    page.set_input_files("#archive", first)
    page.locator("#conversations .title").click()
    answer_is(page, "an answer")
    expect(page.locator(".assistant .place")).to_have_text("2 / 2")
    expect(page.locator(".reasoning summary")).to_contain_text("Thought")
    expect(page.locator(".file bdi")).to_have_text("notes.txt")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "second.json")

    before, after = (without_ids(tmp_path / name) for name in ("first.json", "second.json"))
    assert before == after
    assert [message["role"] for message in after[0]["messages"]] == ["user", "assistant", "assistant"]


@pytest.mark.slow(4)
def test_an_own_export_makes_no_second_copy(browser: Browser, live: Live, tmp_path: Path) -> None:
    for page in watched(browser, viewport={"width": 390, "height": 844}):
        ready(page, live)
        answered(page, "one")
        page.click("#list-toggle")
        page.click("#new-chat")
        answered(page, "two")
        page.click("#list-toggle")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "all.json")
        page.locator("#conversations li").last.hover()
        page.get_by_label("Delete one").click()
        expect(page.locator("#toast")).to_contain_text("Deleted")
        page.set_input_files("#archive", {"name": "x.json", "mimeType": "application/json", "buffer": b"{"})
        expect(page.locator("#problem-text")).to_contain_text("not imported")
        expect(page.locator("#toast")).to_be_empty()
        page.set_input_files("#archive", tmp_path / "all.json")
        expect(page.locator("#toast p")).to_have_text("Imported 1 conversation; 1 was here already.")
        page.set_input_files("#archive", tmp_path / "all.json")

        expect(page.locator("#toast p")).to_have_text("Imported 0 conversations; 2 were here already.")
        expect(page.locator("#conversations .title")).to_have_text(["two", "one"])
        page.click("#export", trial=True)  # nothing lies over it


@pytest.mark.slow(3)
def test_what_an_export_has_more_is_imported(page: Page, live: Live, tmp_path: Path) -> None:
    ready(page, live)
    answered(page, "one")
    with page.expect_download() as download:
        page.click("#export")
    archive = json.loads(download.value.path().read_text("utf-8"))
    archive["conversations"][0]["messages"][1]["content"] += ", and more"
    more = json.dumps(archive).encode()
    page.set_input_files("#archive", {"name": "a.json", "mimeType": "application/json", "buffer": more})

    expect(page.locator("#toast p")).to_have_text("Imported 1 conversation.")
    expect(page.locator("#conversations .title")).to_have_text(["one", "one"])


def without_ids(path: Path) -> list[dict[str, Any]]:
    """The conversations of an archive with each id replaced by its place."""
    archive = json.loads(path.read_text("utf-8"))
    for conversation in archive["conversations"]:
        places = {message["id"]: place for place, message in enumerate(conversation["messages"])}
        del conversation["id"]
        conversation["leaf"] = places[conversation["leaf"]]
        for message in conversation["messages"]:
            message["id"], message["parent"] = places[message["id"]], places.get(message["parent"])
    conversations: list[dict[str, Any]] = archive["conversations"]
    return conversations


@pytest.mark.slow(2)
def test_an_attached_file_goes_before_the_message(page: Page, live: Live) -> None:
    sent = script(page, {"content": "read"})
    ready(page, live)
    text = "a ``` fence"
    page.set_input_files("#file", [{"name": "a.md", "mimeType": "text/markdown", "buffer": text.encode()}])
    expect(page.locator("#files bdi")).to_have_text("a.md")
    page.set_input_files("#file", [{"name": "b.bin", "mimeType": "application/octet-stream", "buffer": b"\xff\0"}])
    expect(page.locator("#problem-text")).to_contain_text("not text in UTF-8")
    page.set_input_files("#file", [{"name": "c.md", "mimeType": "text/markdown", "buffer": b""}])
    expect(page.locator("#problem-text")).to_contain_text("c.md is not attached: it is empty")
    answered(page, "What is in it?")

    assert sent[0]["messages"] == [{"role": "user", "content": f"File a.md:\n````\n{text}\n````\n\nWhat is in it?"}]
    expect(page.locator("#files")).to_be_hidden()


READS_WHEN_TOLD = """() => {
  const read = Blob.prototype.arrayBuffer;
  Blob.prototype.arrayBuffer = function () {
    return new Promise((go) => (window.go = go)).then(() => read.call(this));
  };
}"""


def test_a_file_that_is_read_while_a_message_is_sent_goes_with_the_next(page: Page, live: Live) -> None:
    sent = script(page, {"content": "read"})
    ready(page, live)
    page.evaluate(READS_WHEN_TOLD)
    page.set_input_files("#file", [{"name": "a.md", "mimeType": "text/markdown", "buffer": b"much"}])
    wait_until(lambda: page.evaluate("'go' in window"))
    answered(page, "first")
    page.evaluate("go()")

    expect(page.locator("#files bdi")).to_have_text("a.md")
    answered(page, "second")
    assert ["File a.md" in body["messages"][-1]["content"] for body in sent] == [False, True]


def test_a_tool_is_called_and_answered_by_hand(page: Page, live: Live) -> None:
    sent = script(page, {"tool_calls": [CALL]}, {"tool_calls": [REST]}, finish="tool_calls")
    ready(page, live)
    page.click("#open-settings")
    page.fill("#tools", TOOLS[:-1])
    expect(page.locator("#tools-problem")).not_to_be_empty()
    page.fill("#tools", TOOLS)
    expect(page.locator("#tools-problem")).to_be_empty()
    page.click("#close-settings")
    ask(page, "How is the weather?")
    expect(page.locator(".call summary")).to_contain_text("weather")
    expect(page.locator(".call .code pre")).to_have_text('{\n  "city": "Bern"\n}')
    sent = script(page, {"content": "It rains."})
    compose(page.get_by_label("Result of weather"))
    page.get_by_label("Result of weather").fill("rain")
    page.keyboard.press("Enter")
    answer_is(page, "It rains.")

    _, called, result = sent[0]["messages"]
    assert called["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Bern"}'}
    assert result == {"role": "tool", "content": "rain", "tool_call_id": "call_1"}
    assert sent[0]["tools"] == json.loads(TOOLS)


@pytest.mark.slow(2)
def test_answers_are_json_by_a_schema(page: Page, live: Live) -> None:
    ready(page, live)
    page.click("#json")
    page.fill("#schema", '{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}')
    page.click("#close-settings")
    expect(page.locator("#json")).to_have_attribute("aria-pressed", "true")
    sent = script(page, {"content": '{"a": 1}'})
    answered(page, "go")

    schema = sent[0]["response_format"]["json_schema"]
    assert (schema["strict"], schema["schema"]["required"]) == (True, ["a"])


@pytest.mark.slow(2)
def test_an_answer_that_was_cut_off_goes_on(page: Page, live: Live) -> None:
    script(page, {"content": "One two"}, finish="length")
    ready(page, live)
    answered(page, "count")
    expect(page.locator(".assistant .note")).to_contain_text("Cut off")
    sent = script(page, {"content": " three"})
    page.get_by_role("button", name="Go on").click()
    answer_is(page, "One two three")

    assert sent[0]["continue_final_message"] is True
    assert sent[0]["messages"][-1] == {"role": "assistant", "content": "One two"}
    expect(page.locator(".assistant")).to_have_count(1)


def compose(area: Locator) -> None:
    """Press what ends a word of an input method, and leaves it, in two browsers' ways; nothing is done with it."""
    for key in ("Enter", "Escape"):
        for composing, code in ((True, 13), (False, 229)):
            event = {"key": key, "bubbles": True, "cancelable": True, "isComposing": composing, "keyCode": code}
            assert area.evaluate("(area, event) => area.dispatchEvent(new KeyboardEvent('keydown', event))", event)


@pytest.mark.slow(2)
def test_an_enter_of_an_input_method_does_not_send(page: Page, live: Live) -> None:
    ready(page, live)
    page.fill("#text", "にほん")
    compose(page.locator("#text"))
    expect(page.locator("#text")).to_have_value("にほん")
    expect(page.locator(".turn")).to_have_count(0)
    page.press("#text", "Enter")

    answer_is(page, "にほん")


@pytest.mark.slow(3)
def test_an_edit_has_the_keys_of_a_message(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "first")
    page.locator(".user").hover()
    page.get_by_label("Edit", exact=True).click()
    area = page.get_by_label("Your message")
    area.fill("にほん")
    compose(area)
    area.press("Shift+Enter")
    page.keyboard.type("two")
    expect(area).to_have_value("にほん\ntwo")
    area.press("Escape")
    expect(area).to_have_count(0)
    page.get_by_label("Edit", exact=True).click()
    area.fill("second")
    area.press("Enter")

    answer_is(page, "second")


@pytest.mark.slow(6)
def test_without_a_server_conversations_are_still_there(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "kept")
    page.route("**/health", lambda route: route.abort())
    page.route("**/v1/**", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('offline'))")
    expect(page.locator("#state-text")).to_have_text("the server does not answer")
    expect(page.locator("#send")).to_be_disabled()
    page.click("#new-chat")
    expect(page.locator("#empty-title")).to_have_text("The server does not answer")
    page.locator("#conversations .title").click()
    answer_is(page, "kept")
    page.unroute("**/health")
    page.unroute("**/v1/**")

    expect(page.locator("#state-text")).to_have_text("ready")
    expect(page.locator("#send")).to_be_enabled()


def test_where_the_browser_keeps_nothing_it_is_said(page: Page, live: Live) -> None:
    page.add_init_script("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); };")
    ready(page, live)
    expect(page.locator("#not-kept")).to_be_visible()
    answered(page, "here")
    page.click("#new-chat")
    page.locator("#conversations .title").click()

    answer_is(page, "here")
