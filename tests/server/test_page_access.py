"""The page for those who do not see it, do not use a mouse, read from the right, or want no motion."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import answered, last_answer, ready, script, watched
from support.live_server import Live

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[1] / "data" / "axe" / "axe.min.js.xz"  # axe-core 4.14.1 of npm, compressed
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
ANSWER = """# A heading

Some **words**, `code`, [a link](https://example.com/a?b=c) and ~~more~~.

```python
def add(a, b):  # adds
    return "sum", a + b, None
```

| a | b |
|---|--:|
| 1 | 2 |

> quoted

- [x] done

1. one
"""


@pytest.fixture(scope="module")
def axe() -> str:
    source = lzma.decompress(AXE.read_bytes())
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


def violations(page: Page, axe: str) -> list[str]:
    """What is serious or critical, in one line each."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.slow(10)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, live: Live, axe: str, scheme: str) -> None:
    for page in watched(browser, color_scheme=scheme, reduced_motion="reduce", viewport={"width": 1280, "height": 900}):
        ready(page, live)
        expect(page.locator("#prompts button")).to_have_count(4)
        assert violations(page, axe) == []
        call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
        deltas = [{"reasoning_content": "Let me see."}, {"content": ANSWER}, {"tool_calls": [call]}]
        script(page, *deltas, finish="tool_calls")
        page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
        answered(page, "Hello")
        for summary in page.locator("details:visible > summary").all():
            summary.click()
        expect(page.locator(".hljs-keyword").first).to_be_visible()
        assert violations(page, axe) == []
        page.click("#open-settings")
        page.fill("#schema", "{")
        assert violations(page, axe) == []
        page.fill("#schema", "")
        page.keyboard.press("Escape")
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=500, body="x"))
        page.get_by_label("Answer again").last.click()
        expect(page.locator("#problem")).to_be_visible()
        assert violations(page, axe) == []


@pytest.mark.slow(4)
def test_axe_finds_nothing_serious_on_a_phone(browser: Browser, live: Live, axe: str) -> None:
    for page in watched(browser, reduced_motion="reduce", viewport={"width": 360, "height": 640}):
        ready(page, live)
        answered(page, "Hello")
        page.click("#why-toggle")
        assert violations(page, axe) == []
        page.keyboard.press("Escape")
        page.click("#list-toggle")
        assert violations(page, axe) == []


def test_everything_is_reached_by_keyboard(page: Page, live: Live) -> None:
    ready(page, live)
    answered(page, "Hello")
    expect(page.locator("#text")).to_be_focused()
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label') || ''")
        if name in reached and name == "text":
            break
        reached.add(name)

    wanted = {
        "new-chat",
        "import",
        "export",
        "models",
        "switch-theme",
        "open-settings",
        "log",
        "attach",
        "json",
        "text",
    }
    assert wanted | {"Copy", "Edit", "Answer again", "Rename Hello", "Delete Hello"} <= reached


def test_an_answer_is_announced_once_and_whole(page: Page, live: Live) -> None:
    ready(page, live)
    page.evaluate("""() => {
        window.announced = [];
        new MutationObserver(() => announced.push(document.getElementById('announcer').textContent))
            .observe(document.getElementById('announcer'), {childList: true});
    }""")
    script(page, *({"content": f"word{n} "} for n in range(50)))
    answered(page, "Hello")

    announced = page.evaluate("announced")
    assert announced[0] == "The model answers."
    assert len(announced) == 2
    assert announced[1].startswith("word0 ")
    assert "word49" in announced[1]


@pytest.mark.slow(2)
def test_text_runs_in_its_own_direction(page: Page, live: Live) -> None:
    script(page, {"content": "שלום עולם\n\nHello\n\n- مرحبا\n\n```\nx = 1\n```"})
    ready(page, live)
    answered(page, "سلام")

    directions = (
        last_answer(page).locator("> *").evaluate_all("(all) => all.map((one) => getComputedStyle(one).direction)")
    )
    assert directions == ["rtl", "ltr", "rtl", "ltr"]
    question = page.locator(".user > .text")
    assert question.evaluate("(one) => getComputedStyle(one).direction") == "rtl"


def test_dark_and_light_follow_the_system_until_one_is_chosen(browser: Browser, live: Live) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    for page in watched(browser, color_scheme="dark"):
        ready(page, live)
        dark = page.evaluate(back)
        page.emulate_media(color_scheme="light")
        light = page.evaluate(back)
        assert light != dark
        page.click("#switch-theme")
        assert page.evaluate(back) == dark
        page.reload()
        assert page.evaluate(back) == dark


def test_nothing_moves_where_no_motion_is_wanted(browser: Browser, live: Live) -> None:
    for page in watched(browser, reduced_motion="reduce"):
        page.route("**/health", lambda route: route.fulfill(status=503, json={"status": "loading"}))
        page.goto(live.url)
        expect(page.locator("#state-text")).to_have_text("the model is loading")
        assert page.evaluate("document.getAnimations().length") == 0
