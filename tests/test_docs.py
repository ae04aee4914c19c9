"""Docs say what the code does: hooks, commands, flags, links, paths and environment variables are looked up."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support import sdk_page

from edgellm.builtin.commands import COMMANDS
from edgellm.cli.main import cli
from edgellm.contract import hookspecs

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
CLI_PAGE = ROOT / "docs" / "cli.md"


def read(page: Path) -> str:
    return page.read_text("utf-8")


def section(text: str, heading: str) -> str:
    """The lines below `heading` up to the next heading of its level or above."""
    level = heading.index(" ")
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = re.search(rf"^#{{1,{level}}} ", text[start:], re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def hooks() -> dict[str, str]:
    """Hook name -> `name(arguments)` as in hookspecs.py."""
    found = {name: value for name, value in vars(hookspecs).items() if hasattr(value, "edgellm_spec")}
    return {name: f"{name}({', '.join(inspect.signature(hook).parameters)})" for name, hook in found.items()}


@pytest.mark.parametrize("signature", hooks().values())
def test_every_hook_has_a_heading_with_its_signature(signature: str) -> None:
    assert f"\n### `{signature}`\n" in read(ROOT / "docs" / "plugins.md")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_flag_is_documented(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    text = section(read(CLI_PAGE), f"## `edgellm {name}`")
    missing = [flag for flag in flags(command) if not re.search(rf"`{re.escape(flag)}[`\s,=]", text)]

    assert missing == [], f"docs/cli.md, edgellm {name}"


def test_no_flag_is_documented_that_is_not_there() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        text = section(read(CLI_PAGE), f"## `edgellm {name}`")
        listed = set(re.findall(r"^- `(--[a-z0-9-]+)", text, re.MULTILINE))

        assert listed <= set(flags(command)), name


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "how-to"], ids=lambda page: page.stem)
def test_the_commands_of_a_how_to_page_have_the_flags_that_they_are_given(page: Path) -> None:
    for line in re.findall(r"(?:\bedgellm|/edgellm) ([a-z-]+ [^`\n|]*)", read(page)):
        name, *words = line.split()
        command = cli.get_command(click.Context(cli), name)
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        if command is not None:
            assert given <= set(flags(command)), line


def flags(command: click.Command) -> Iterator[str]:
    """Long options of a command and of the commands below it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from (name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--"))
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from flags(below)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for text, target in re.findall(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", without_code(read(page))):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"[{text}]({target})"
        if anchor:
            assert anchor in anchors(linked), f"[{text}]({target})"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As a forge makes them of headings: lower case, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.+)$", without_code(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tree() -> list[str]:
    """Paths of README's file tree: two spaces a level, path first, purpose after."""
    block = re.search(r"^## Where things are\n+```\n(.*?)^```", read(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    assert block, "README has no file tree"
    paths: list[str] = []
    parents: list[str] = []
    for line in block[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        paths.append("".join(parents[:depth]) + name)
        parents[depth:] = [name]
    return paths


def test_the_file_tree_names_what_exists() -> None:
    assert len(tree()) > 20
    assert [path for path in tree() if not (ROOT / path).exists()] == []
    assert len(tree()) == len(set(tree()))


def test_the_file_tree_leaves_nothing_of_the_top_out() -> None:
    top = {"pyproject.toml", "README.md", "Makefile", "edgellm/", "plugins/", "hardware_profiles/", "tests/", "docs/"}
    areas = {f"edgellm/{path.name}/" for path in (ROOT / "edgellm").iterdir() if (path / "__init__.py").exists()}

    assert top | areas <= set(tree())


@pytest.mark.parametrize("page", sorted((ROOT / "plugins").glob("*/README.md")), ids=lambda page: page.parent.name)
def test_files_that_a_plugin_names_exist(page: Path) -> None:
    names = [name for name in names_in_code(page) if re.fullmatch(r"[\w./*-]+\.(?:py|c|h|toml)", name)]
    assert names
    assert [name for name in names if not any(page.parent.rglob(name))] == []


ARCHITECTURE = ROOT / "docs" / "architecture.md"
A_FILE = re.compile(r"[\w./-]+(?:\.(?:py|toml|jsonl)|/)")


def names_in_code(page: Path) -> list[str]:
    """What a page sets in code font outside of blocks, each once."""
    return sorted(set(re.findall(r"`([^`\n]+)`", without_code(read(page)))))


@pytest.mark.parametrize("path", [name for name in names_in_code(ARCHITECTURE) if A_FILE.fullmatch(name)])
def test_files_of_the_architecture_exist(path: str) -> None:
    assert exists(path)


def exists(path: str) -> bool:
    return (ROOT / path).exists() or (ROOT / "edgellm" / path).exists()


GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_files_that_a_guide_names_exist(page: Path) -> None:
    ours = ("edgellm/", "plugins/", "tests/", "docs/", "server/", "hardware_profiles/", "benchmarks/")
    paths = [name for name in names_in_code(page) if A_FILE.fullmatch(name) and name.startswith(ours)]
    assert [path for path in paths if not exists(path)] == []


@pytest.mark.parametrize(
    "name",
    [name for name in names_in_code(ARCHITECTURE) if re.fullmatch(r"\w+(\.\w+)+", name) and not A_FILE.fullmatch(name)],
)
def test_functions_of_the_architecture_exist(name: str) -> None:
    pkgutil.resolve_name(f"edgellm.{name}")


def test_the_sdk_page_is_what_the_docstrings_say() -> None:
    assert read(sdk_page.PAGE) == sdk_page.page(), "run: make docs"


def python_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL):
            yield str(page.relative_to(ROOT)), block


def test_python_on_the_pages_imports_what_exists() -> None:
    imports = [
        (page, node.module, alias.name)
        for page, block in python_blocks()
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edgellm"
        for alias in node.names
    ]

    assert len(imports) > 10
    for page, module, name in imports:
        assert hasattr(importlib.import_module(module), name), f"{page}: from {module} import {name}"


def test_every_example_is_listed() -> None:
    examples = [path.name for path in (ROOT / "docs" / "examples").glob("*.py")]
    assert [name for name in examples if f"docs/examples/{name}" not in read(ROOT / "README.md")] == []


def test_every_page_is_in_the_index() -> None:
    index = read(ROOT / "docs" / "README.md")
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    pages += [f"how-to/{path.name}" for path in (ROOT / "docs" / "how-to").glob("*.md")]
    assert [name for name in pages if f"({name})" not in index] == []


def test_every_environment_variable_is_documented() -> None:
    sources = [read(path) for folder in ("edgellm", "plugins") for path in (ROOT / folder).rglob("*.py")]
    used = {name for source in sources for name in re.findall(r"\bEDGELLM_[A-Z_]+\b", source)}

    assert [name for name in sorted(used) if f"`{name}`" not in read(CLI_PAGE)] == []


def test_make_targets_in_docs_exist() -> None:
    known = set(re.findall(r"^([a-z0-9-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z0-9-]+)`", read(page))) <= known, page


def test_pages_that_code_cites_exist() -> None:
    """`docs/adr/029` stands for the page with that number."""
    files = [path for folder in ("edgellm", "plugins", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    cited = {page for path in files for page in re.findall(r"\bdocs/(?:[\w-]+/)*(?:[\w-]+\.md|\d{3}\b)", read(path))}

    assert len(cited) > 10
    assert [page for page in sorted(cited) if not (ROOT / page).exists() and not any(ROOT.glob(f"{page}-*.md"))] == []


DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_is_short_has_a_status_and_is_listed(page: Path) -> None:
    text = read(page)

    assert text.count("\n") <= 40
    assert text.startswith(f"# {page.name[:3]}: ")
    assert re.search(r"^Status: (accepted|proposed|superseded by \[?\d{3}).*\d{4}-\d\d-\d\d", text, re.MULTILINE)
    assert f"]({page.name})" in read(page.parent / "README.md")


def test_every_log_is_linked_from_the_current_numbers() -> None:
    summary = read(ROOT / "docs" / "benchmarks" / "README.md")

    assert summary.count("\n") <= 60
    assert [log.name for log in (ROOT / "docs" / "benchmarks" / "log").glob("*.md") if log.name not in summary] == []
