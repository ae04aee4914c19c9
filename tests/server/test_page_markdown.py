"""Markdown of the page: however it is cut into chunks, what is shown in the end is what the whole text shows."""

from __future__ import annotations

import random

import pytest
from playwright.sync_api import Page, expect
from support.browser import answered, last_answer, ready, script
from support.live_server import Live

pytestmark = pytest.mark.browser

PARTS = [
    "# Heading\n\n",
    "A paragraph with **bold**, `code`\nand a [link](https://example.com/).\n\n",
    "Setext\n---\n\n",
    "1. one\n2. two\n   - inner\n\n3. three\n\n",
    "- a\n- b\n\n  more of b\n\n",
    "```python\ndef f():\n    return 1\n\n```\n\n",
    "````md\n```\nnested\n```\n````\n\n",
    "~~~\nx ~~~ y\n  ~~~~\n\n",
    "| a | b |\n|---|--:|\n| 1 | 2 |\n\n",
    "> quoted\n> more\n\n",
    "    indented code\n\n",
    "---\n\n",
    "<div>html</div>\n\n",
    "text with ```three ticks``` inside\r\n\n",
]
# Colours come later than the text, and code that grows is in parts.
SHOWN = """(box) => {
    const copy = box.cloneNode(true);
    for (const code of copy.querySelectorAll("code")) code.textContent = code.textContent;
    return [...copy.children].map((block) => block.outerHTML.trim());
}"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow(3)) for seed in (1, 2))])
def test_a_stream_ends_as_the_whole_text(page: Page, live: Live, seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices(PARTS, k=30))
    pieces, at = [], 0
    while at < len(text):
        size = rng.choice((1, 2, 3, 7, 40))
        pieces.append(text[at : at + size])
        at += size
    script(page, *({"content": piece} for piece in pieces))
    # Each piece is rendered by itself, as by a slow model.
    page.add_init_script("window.requestAnimationFrame = (next) => { next(performance.now()); return 1; };")
    page.add_init_script(
        "window.setTimeout = ((real) => (next, ms) => ms < 50 ? (next(), 1) : real(next, ms))(setTimeout);"
    )
    ready(page, live)
    answered(page, "go")
    streamed = last_answer(page).evaluate(SHOWN)
    page.locator("#conversations .title").click()
    expect(last_answer(page)).not_to_be_empty()

    assert last_answer(page).evaluate(SHOWN) == streamed


@pytest.mark.slow(4)
def test_a_long_table_stays_one(page: Page, live: Live) -> None:
    rows = "".join(f"| row {n} | {n} |\n" for n in range(900))
    text = "| a | b |\n|---|---|\n" + rows
    script(page, *({"content": text[at : at + 200]} for at in range(0, len(text), 200)))
    ready(page, live)
    answered(page, "go")

    expect(last_answer(page).locator("table")).to_have_count(1)
    expect(last_answer(page).locator("tbody tr")).to_have_count(900)


def test_a_paragraph_that_is_all_signs_stays_text(page: Page, live: Live) -> None:
    """The parser would compare each sign with those before it: 14 s for 65 kB."""
    script(page, {"content": "_a__b" * 13_000})
    ready(page, live)
    answered(page, "go")

    expect(last_answer(page).locator("em, strong")).to_have_count(0)
    expect(last_answer(page)).to_contain_text("_a__b_a__b")


@pytest.mark.parametrize(
    ("text", "shown", "most"),
    [
        pytest.param("> " * 30_000, "blockquote", 25, id="levels"),
        pytest.param("- a\n" + "b\n" * 600 + "  - inner", "li", 1, id="lines"),
    ],
)
def test_what_is_deep_or_long_in_a_list_or_a_quotation_is_text(
    page: Page, live: Live, text: str, shown: str, most: int
) -> None:
    """The parser would take up to a minute for 65 kB."""
    script(page, {"content": f"{text}\n\nafter **all**"})
    ready(page, live)
    answered(page, "go")

    expect(last_answer(page).locator("strong")).to_have_text("all")
    assert 0 < last_answer(page).locator(shown).count() <= most


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://a.example/c.", ["https://a.example/c"]),
        ("(https://a.example/x_(y)), www.b.example/?!", ["https://a.example/x_(y)", "www.b.example/"]),
        (
            "**HTTP://a.example/?q=1&r=2** &lt;https://b.example/c&gt;",
            ["HTTP://a.example/?q=1&r=2", "https://b.example/c"],
        ),
        ("https://a.example/c...).'; me@a.example, xwww.a.example", ["https://a.example/c"]),
        ("wo https://a.example/" + "x" * 3000 + " so", ["https://a.example/" + "x" * 3000]),
    ],
)
def test_addresses_are_links_and_mail_addresses_are_text(page: Page, live: Live, text: str, shown: list[str]) -> None:
    script(page, {"content": f"{text}\n\nme@a.example"})
    ready(page, live)
    answered(page, "go")

    expect(last_answer(page).locator("a")).to_have_text(shown)
    expect(last_answer(page).locator("p").last).to_have_text("me@a.example")


@pytest.mark.parametrize("looks", ["\u202egnp.exe", "ехample"])
def test_an_address_that_only_looks_like_another_is_shown_as_it_is(page: Page, live: Live, looks: str) -> None:
    """A change of direction, letters of another alphabet."""
    script(page, {"content": f"<https://a.example/{looks}>"})
    ready(page, live)
    answered(page, "go")

    link, shown = (last_answer(page).locator(name) for name in ("a", ".address"))
    expect(shown).to_have_text(link.get_attribute("href") or "")
    assert shown.inner_text().isascii()


# Each took the parser 2 to 5 s.
TIMES = """async ([control, hostile]) => {
    const { renderWhole } = await import("/web/page/markdown_stream.js");
    const took = async (text) => {
        const box = document.body.appendChild(document.createElement("div"));
        const began = performance.now();
        await renderWhole(box, text, () => {});
        const ms = performance.now() - began;
        box.remove();
        return ms;
    };
    await took(control);
    const least = await took(control);
    const times = {};
    for (const [name, text] of Object.entries(hostile)) times[name] = (await took(text)) / least;
    return times;
}"""
N = 32_000
HOSTILE = {
    "mail": "a-" * (N // 2 - 1) + "@",
    "mail without an end": "a." * (N // 2 - 4) + "@b.c",
    "brackets": "http://a" + ")." * (N // 2 - 4),
    "entities": "http://a" + "&a;" * (N // 3 - 8),
    "dots": "http://a" + "." * (N - 8),
    "addresses": "www.a(" * (N // 6),
    "headings": "a\n-\n" * (N // 4),
    "tables of other widths": "a|b\n-|\n" * (N // 7),
    "rules": "- " * (N // 2 - 10) + "***\na@b.c",
}


def test_no_text_takes_longer_than_as_many_paragraphs(page: Page, live: Live) -> None:
    """Against 10,000 paragraphs of a letter each, which are work for the browser, not for the parser."""
    ready(page, live)
    times = page.evaluate(TIMES, ["\n\na" * (N // 3), HOSTILE])

    assert {name: ratio for name, ratio in times.items() if ratio > 1} == {}


def test_a_long_text_gives_the_thread_back(page: Page, live: Live) -> None:
    ready(page, live)
    seen = page.evaluate(
        """async (text) => {
            const { MarkdownStream, renderWhole } = await import("/web/page/markdown_stream.js");
            const box = document.body.appendChild(document.createElement("div"));
            let now = 0;
            performance.now = () => (now += 200);
            const shown = [];
            const look = () => shown.push(box.textContent.length);
            const whole = renderWhole(box, text, look);
            look();
            await whole;
            look();
            const isBusy = box.ariaBusy;
            // An answer goes on in the box, and another box is gone.
            await renderWhole(box, text, () => new MarkdownStream(box));
            const taken = box.textContent.length;
            const other = renderWhole(box, text, () => {});
            box.remove();
            await other;
            return { shown, isBusy, taken, gone: box.textContent.length };
        }""",
        "word " * 20_000,
    )
    shown = seen["shown"]

    assert len(shown) >= 4
    assert shown == sorted(shown)
    assert shown[0] < 40_000
    assert shown[-1] >= 99_999
    assert seen["isBusy"] is None
    assert seen["taken"] < 70_000
    assert seen["gone"] < 40_000


def test_a_long_answer_that_was_kept_is_shown_from_its_end(page: Page, live: Live) -> None:
    page.add_init_script("{ let now = 0; performance.now = () => (now += 200); }")
    script(page, {"content": "line\n\n" * 12_000})
    ready(page, live)
    answered(page, "go")
    page.locator("#conversations .title").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".turn [aria-busy]")).to_have_count(0)

    page.wait_for_function(
        "() => { const l = document.querySelector('#log'); return l.scrollHeight - l.scrollTop - l.clientHeight < 80; }"
    )
    assert last_answer(page).locator("p").count() == 12_000
