"""What a chunk of a streamed answer costs the page in script time, by where it comes in the answer.

    python benchmarks/page.py [--characters 65536] [--json FILE]

The page of a real server runs in Chromium. Its `fetch` is replaced for answers: it yields a text in chunks of 24
characters, one each 10 ms. Script time is Chromium's `ScriptDuration` (DevTools protocol, Performance.getMetrics),
which includes the stand-in and what it forces. Layout is Chromium's `LayoutDuration`. Milliseconds a chunk, in
quarters of the answer; the last column is the last quarter's script time over the first's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHUNK = 24  # characters
EVERY_MS = 10
PARTS = 4
TIMEOUT_MS = 600_000
WORDS = "The quick brown fox **jumps** over the `lazy` dog, and [reads](https://example.com/) what it wrote. "
TEXTS = {
    "paragraphs": WORDS * 4 + "\n\n",
    "one paragraph": WORDS,
    "one list": "- " + WORDS + "\n",
    "one block of code": "def function(argument):  # a comment\n    return argument + 1\n\n",
    "one table": "| " + WORDS + " | b | 1.5 |\n",
    "blocks of code": "```python\n" + "x = 1\n" * 40 + "```\n\nSome words.\n\n",
}
STARTS = {"one block of code": "```python\n", "one table": "| a | b | c |\n|---|---|---|\n"}
STAND_IN = """
const real = window.fetch;
window.sent = 0;
window.fetch = (path, request) => {
  if (path !== "/v1/chat/completions") return real(path, request);
  const encoder = new TextEncoder();
  const event = (choice) => encoder.encode(`data: ${JSON.stringify({choices: [{index: 0, ...choice}]})}\\n\\n`);
  const text = window.answerText;
  window.sent = 0;
  const body = new ReadableStream({
    async pull(controller) {
      await new Promise((next) => setTimeout(next, EVERY_MS));
      const start = window.sent * CHUNK;
      if (start >= text.length) {
        controller.enqueue(event({delta: {}, finish_reason: "stop"}));
        controller.enqueue(encoder.encode("data: [DONE]\\n\\n"));
        controller.close();
      } else {
        window.sent += 1;
        controller.enqueue(event({delta: {content: text.slice(start, start + CHUNK)}, finish_reason: null}));
      }
    },
  }, {highWaterMark: 0});
  return Promise.resolve(new Response(body));
};
""".replace("CHUNK", str(CHUNK)).replace("EVERY_MS", str(EVERY_MS))


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server with the echo model."""
    command = [sys.executable, "-m", "edgellm", "serve", "echo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("Open "))
        finally:
            process.terminate()


def measure(browser: Browser, url: str, text: str) -> tuple[list[float], list[float]]:
    """Milliseconds of script and of layout a chunk, in each part of an answer with this text."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(STAND_IN)
    page.goto(url)
    page.wait_for_selector('#dot[data-state="ok"]')
    page.evaluate("(text) => { window.answerText = text; }", text)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def durations(chunk: int) -> tuple[int, float, float]:
        """Chunks, and seconds of script and layout, once `chunk` chunks came."""
        page.wait_for_function("(chunk) => window.sent >= chunk", arg=chunk, timeout=TIMEOUT_MS, polling=50)
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return page.evaluate("window.sent"), metrics["ScriptDuration"], metrics["LayoutDuration"]

    page.fill("#text", "go")
    page.press("#text", "Enter")
    n = -(-len(text) // CHUNK)
    # Both ends are left out: the page starts, and ends an answer, once.
    marks = [durations(20 + (n - 40) * part // PARTS) for part in range(PARTS + 1)]
    page.close()
    pairs = list(itertools.pairwise(marks))
    script, layout = ([1e3 * (b[k] - a[k]) / (b[0] - a[0]) for a, b in pairs] for k in (1, 2))
    return script, layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=65_536)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("Chromium is not installed (Debian package: chromium)")
    rows = {}
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        print(f"{arguments.characters:,} characters; milliseconds a chunk of {CHUNK}, in quarters")
        for name, part in TEXTS.items():
            text = (STARTS.get(name, "") + part * (arguments.characters // len(part) + 1))[: arguments.characters]
            script, layout = measure(browser, url, text)
            rows[name] = {"script_ms": script, "layout_ms": layout}
            shown = "  ".join(" ".join(f"{value:6.3f}" for value in values) for values in (script, layout))
            print(f"{name:18} script, layout: {shown}  x{script[-1] / script[0]:.2f}", flush=True)
        browser.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
