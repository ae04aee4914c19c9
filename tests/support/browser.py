"""The page in a real headless Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from support.live_server import Live
from support.waiting import PATIENCE_S

# The first is the same engine without a browser's windows and profiles: a page takes half the processor time.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def chromium() -> str:
    """Its path; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("browser: Chromium is not installed (Debian package: chromium-headless-shell)")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        expect.set_options(timeout=1000 * PATIENCE_S)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=1000 * PATIENCE_S)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test where a script raised, a policy was broken, or something came from elsewhere."""
    yield from watched(browser)


def watched(browser: Browser, **context: Any) -> Iterator[Page]:
    """As `page`, in a context of one's own: `viewport`, `color_scheme`, ..."""
    made = browser.new_context(**context)
    made.set_default_timeout(1000 * PATIENCE_S)
    page = made.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("popup", lambda popup: wrong.append(f"a window for {popup.url}"))
    page.on("console", lambda message: wrong.append(message.text) if _is_wrong(message.type, message.text) else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith(("http://127.0.0.1", "blob:")) else wrong.append(request.url),
    )
    yield page
    made.close()
    assert wrong == []


_COUNT_KEPT = """() => new Promise((tell) => {
  const open = indexedDB.open("edgellm");
  open.onsuccess = () => {
    const count = open.result.transaction("messages").objectStore("messages").count();
    count.onsuccess = () => { open.result.close(); tell(count.result); };
  };
})"""


def _is_wrong(kind: str, text: str) -> bool:
    # Chromium also reports each response over 399 there.
    return kind == "error" and not text.startswith("Failed to load resource")


def ready(page: Page, live: Live) -> None:
    page.goto(live.url)
    expect(page.locator("#state-text")).to_have_text("ready")


def reloaded(page: Page) -> None:
    page.reload()
    expect(page.locator("#state-text")).to_have_text("ready")


def count_kept(page: Page) -> int:
    """Turns that the browser has stored."""
    return int(page.evaluate(_COUNT_KEPT))


def ask(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def answered(page: Page, text: str) -> None:
    """Ask, and wait for the end of the answer."""
    n = page.locator(".turn.assistant .foot .speed").count()
    ask(page, text)
    expect(page.locator(".turn.assistant .foot .speed")).to_have_count(n + 1)


def last_answer(page: Page) -> Locator:
    """The text of the answer that is shown last."""
    return page.locator(".turn.assistant > .text").last


def script(page: Page, *deltas: dict[str, Any], finish: str = "stop") -> list[dict[str, Any]]:
    """Make chat completions answer with these deltas, whatever is asked. Returns the bodies that come to be sent."""
    sent: list[dict[str, Any]] = []
    choices = [{"delta": delta, "finish_reason": None} for delta in deltas] + [{"delta": {}, "finish_reason": finish}]
    events = [json.dumps({"model": "scripted", "choices": [{"index": 0, **choice}]}) for choice in choices]
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": len(deltas)}})
    body = "".join(f"data: {event}\n\n" for event in [*events, usage, "[DONE]"])

    def answer(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(content_type="text/event-stream", body=body)

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", answer)
    return sent
