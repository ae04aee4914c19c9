"""The files of the page: published builds unchanged, no scripts or styles inside of markup, and few bytes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.browser import ready
from support.live_server import Live

WEB = Path(__file__).parents[2] / "edgellm" / "server" / "web"
MAX_BYTES = 260_000  # of all that `/` loads, not compressed
VENDORED = {
    "highlight/LICENSE": "6c081431591d9df696c82dc598fe1423765b8a299b200ed00b281afd0f64c490",
    "highlight/bash.min.js": "7db1758fe6f04cd410760c29879812a3774edc54edcc91323511a24efc0b9e61",
    "highlight/core.min.js": "67a339aa68880a40c9803def9c8cebb2225dec76230382db86e349370dee70e9",
    "highlight/cpp.min.js": "aa67eeacdbbda9f40ca34c59147581aef1601f19b71a55966de4ccf4246e8c31",
    "highlight/diff.min.js": "cbd7cf3b49bee36d6a0cf97789a7c5e68fbfd4231e86a81966f9b78c7bc127d0",
    "highlight/go.min.js": "05658f281f7f12233cd891e879c8b9ebfd5998f5dc3f1e80632889ce61178534",
    "highlight/java.min.js": "7987da1c2dcc1d83f7a5a670cdc622fdac834cb1c140ad503bf8d7ea9237ac36",
    "highlight/javascript.min.js": "c3dbd515a79e2c00ff4535aa5ad2fe539fb2587d047f9ab826107d0784da7bb6",
    "highlight/json.min.js": "8f2343ffbcc4fdea4b336a4241d54d223d52f99b67729d2d6d3556bbf66908ae",
    "highlight/python.min.js": "fd5d479dcc9d07b957cf07b1df76d3d8fb6ee6f6d1437238d9530a9be724c046",
    "highlight/rust.min.js": "fde151d2b246bef44c98da80e7cac3cbb05de794911305fe9a3adf6beff87659",
    "highlight/sql.min.js": "79bead5cf2bfa93d3982073d000a97802f394fe287736644bab30f40cb5c7380",
    "highlight/xml.min.js": "2e8c8ba1e7a200cd83dfbf9c746b8e00f7d7bad966dbfd83eca142cf2caa4dd7",
    "highlight/yaml.min.js": "7010955f1f87aef1de085483d79d42817544aaf03c4f57a6fd4eb838f2cdf609",
    "marked.LICENSE": "8e3a3f82f59a60958f56ca08f445647c32a4733dc7ca6c2c46f6eb898471ab9c",
    "marked.esm.js": "5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de",
    "purify.LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "purify.min.js": "8053ee2a6a09f9d50f7fcd6fb7f07072f52c7f3fa9aa12147cab4feaf65ee970",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_the_libraries_are_the_published_builds() -> None:
    """marked 18.2.1, dompurify 3.4.18, uplot 1.6.32 and @highlightjs/cdn-assets 11.12.0 (folder es) of npm.

    To update one, copy the files of another release and their hashes.
    """
    vendor = WEB / "vendor"
    files = {str(path.relative_to(vendor)): path for path in vendor.rglob("*") if path.is_file()}

    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == VENDORED


@pytest.mark.parametrize("path", sorted((WEB / "page").glob("*.js")), ids=lambda path: path.name)
def test_markup_is_made_in_one_place_alone(path: Path) -> None:
    text = path.read_text("utf-8")
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|eval\(|Function\(|createPolicy"

    assert not re.search(sinks, text)
    assert ("DOMPurify." in text) == (path.name == "purify.js")
    assert len(text.splitlines()) <= 250


def test_each_word_of_the_style_sheets_and_symbols_is_used() -> None:
    text = "".join(path.read_text("utf-8") for path in [WEB / "index.html", *(WEB / "page").glob("*.js")])
    styles = "".join(path.read_text("utf-8") for path in (WEB / "page").glob("*.css"))
    ids = set(re.findall(r"#([a-z][\w-]*)", re.sub(r":[^;{}]*;", ";", styles)))

    assert {name for name in ids if f'id="{name}"' not in text} == set()
    symbols = set(re.findall(r'<symbol id="icon-(\w+)"', text))
    assert {name for name in symbols if f"#icon-{name}" not in text and f'"{name}"' not in text} == set()


@pytest.mark.browser
def test_all_that_the_page_loads_is_small(page: Page, live: Live) -> None:
    sizes: dict[str, int] = {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    ready(page, live)
    expect(page.locator("#speed-plot canvas")).to_be_visible()
    own = {url: size for url, size in sizes.items() if "/edgellm/" not in url and "/v1/" not in url}

    assert any(url.endswith("uPlot.iife.min.js") for url in own)
    assert sum(own.values()) <= MAX_BYTES, own
