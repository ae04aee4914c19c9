"""Writes docs/screenshots: the page at three widths, in both schemes.

    python tests/support/screenshots.py [FOLDER]

The server is real, with the echo model behind it. What it tells of itself is what would run on a Raspberry Pi 5 with
8 GB, as `edgellm auto-select --profile` decides, with made-up measurements; the conversations are imported.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edgellm import explain
from edgellm.app import context as app_context
from edgellm.selection.decide import decide
from edgellm.types.request import SelectionRequest
from support.browser import FLAGS, chromium, ready
from support.live_server import Live, Servers, echo_plan

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
PROFILE = "raspberry-pi-5-8gb"
WIDTHS = {360: 740, 1280: 800, 1920: 1080}
SPEEDS = (0.96, 1.02, 0.99, 1.05, 0.93, 0.97, 1.01, 0.9, 0.95, 1.0, 0.98, 1.03, 0.91, 0.97, 1.0, 0.96)
QUESTION = "How do I merge two sorted lists in Python, and what does it cost?"
ANSWER = """Use `heapq.merge` from the standard library. It is **lazy**: it never holds more than one item of each list.

```python
from heapq import merge

def merged(first, second):
    # both must be sorted
    return list(merge(first, second))
```

| Way | Time | Extra memory |
|---|---|---|
| `heapq.merge` | O(n + m) | O(1) |
| `sorted(a + b)` | O(n + m) here, as Timsort finds the runs | O(n + m) |

The [documentation](https://docs.python.org/3/library/heapq.html) has more."""
TITLES = ("A recipe with lentils", "Translate a letter", "سؤال عن التاريخ", "Names for a cat")


def plan() -> dict[str, Any]:
    """The body of /edgellm/plan as it would be there."""
    context = app_context.of(PROFILE)
    decision = decide(context, SelectionRequest())
    choice = decision.choice
    assert choice is not None
    footprint = {**explain.plain(choice.footprint), "resident_bytes": choice.footprint.resident_bytes}
    settings = {"n_ctx": choice.ctx, "n_slots": choice.slots, "n_threads": choice.threads}
    few = replace(decision, rejected=decision.rejected[:200])
    return {
        "state": "ready",
        "reason": "",
        "model": choice.model,
        "quant": choice.quant,
        "format": "gguf",
        "file_bytes": choice.tensor_bytes,
        "backend": choice.backend,
        "settings": settings,
        "thinking": False,
        "sampling_facts": {
            "parts": [{"origin": "catalog", "source": "model card", "values": {"temperature": 0.7, "top_p": 0.8}}]
        },
        "chat": True,
        "can": ["generate"],
        "memory": footprint,
        "decode": explain.plain(choice.decode),
        "engine": {"device": "cpu", "library": "NEON, DOTPROD"},
        "reasons": list(map(explain.sentence, decision.reasons)),
        "reasons_facts": list(map(explain.facts, decision.reasons)),
        "decision": explain.plain(few),
        "version": "0.1.0",
    }


def activity(told: dict[str, Any]) -> dict[str, Any]:
    """The body of /edgellm/activity after some answers."""
    speed = told["decode"]["tok_s"]
    answers = [{"decode_tok_s": speed * share} for share in SPEEDS]
    resident = int(0.93 * told["memory"]["resident_bytes"])
    return {
        "n_slots": told["settings"]["n_slots"],
        "n_busy": 1,
        "n_waiting": 0,
        "resident_bytes": resident,
        "answers": answers,
    }


def archive(told: dict[str, Any]) -> bytes:
    """Some conversations, the first of them with an answer that was asked for twice."""
    speed = {"decode_tok_s": told["decode"]["tok_s"] * 0.96, "first_s": 0.4, "tokens": 212, "thought_s": 3.2}
    model = told["model"]
    messages: list[dict[str, Any]] = [
        {"id": "1", "parent": None, "role": "user", "content": QUESTION},
        {
            "id": "2",
            "parent": "1",
            "role": "assistant",
            "model": model,
            "content": "Use `sorted(a + b)`.",
            "speed": speed,
        },
        {"id": "3", "parent": "1", "role": "assistant", "model": model, "content": ANSWER, "speed": speed},
    ]
    messages[2]["reasoning"] = "They want the idiom and its cost. heapq.merge is lazy; sorted is simple."
    first = {"title": "Merge two sorted lists", "leaf": "3", "messages": messages}
    others = [{"title": title, "leaf": "1", "messages": messages[:1], "created": 0, "updated": 0} for title in TITLES]
    conversations = [first, *({**one, "created": 1.79e12, "updated": 1.79e12} for one in others)]
    return json.dumps({"format": "edgellm-conversations", "version": 1, "conversations": conversations}).encode()


def prepared(browser: Browser, live: Live, told: dict[str, Any], width: int, scheme: Any) -> Page:
    """The page with the first conversation open."""
    size = {"width": width, "height": WIDTHS[width]}
    page = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    page.route("**/edgellm/plan*", lambda route: route.fulfill(json=told))
    page.route("**/edgellm/activity*", lambda route: route.fulfill(json=activity(told)))
    page.route("**/v1/models", lambda route: route.fulfill(json={"data": [{"id": told["model"]}]}))
    ready(page, live)
    page.set_input_files("#archive", {"name": "a.json", "mimeType": "application/json", "buffer": archive(told)})
    expect(page.locator("#toast")).to_contain_text("Imported")
    page.evaluate("document.getElementById('toast').replaceChildren()")
    return page


def open_first(page: Page, width: int) -> None:
    if width < 800:
        page.click("#list-toggle")
    page.get_by_role("button", name="Merge two sorted lists", exact=True).click()
    expect(page.locator(".hljs-keyword").first).to_be_visible()
    page.wait_for_timeout(2500)  # two readings of the activity
    page.locator("#log").evaluate("(log) => { log.scrollTop = 0; }")


def take(page: Page, path: Path) -> None:
    """As WebP, which is a third of the PNG that Playwright makes."""
    shot = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": 85})
    path.write_bytes(base64.b64decode(shot["data"]))


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = plan()
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        servers = Servers(patch)
        live = servers(echo_plan())
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                page = prepared(browser, live, told, width, scheme)
                if width != 1920:
                    take(page, folder / f"empty-{width}-{scheme}.webp")
                open_first(page, width)
                take(page, folder / f"chat-{width}-{scheme}.webp")
                if width == 360:
                    page.click("#why-toggle")
                    page.wait_for_timeout(300)
                    take(page, folder / f"why-{width}-{scheme}.webp")
                if width == 1280:
                    page.click("#open-settings")
                    take(page, folder / f"settings-{width}-{scheme}.webp")
                page.close()
        browser.close()
        servers.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
