"""`edgellm run --schema` and `--tool`, and how thoughts and calls are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.refusals import check_refusal, refuses

from edgellm.cli import page
from edgellm.cli import screen as screen_module
from edgellm.cli.run import command
from edgellm.cli.screen import Screen
from edgellm.cli.talk import Talk
from edgellm.cli.tool_option import function_of
from edgellm.errors import IncompleteAnswer, UsageError
from edgellm.types.event import Delta, Done, Timings, Usage
from edgellm.types.message import ToolCall
from edgellm.types.tool_use import ToolResult

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}, "required": ["größe"]}
SCHEMA |= {"additionalProperties": False}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["echo", "--no-isolate", *arguments], standalone_mode=False)


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), "utf-8")
    return str(path)


def test_only_the_json_is_printed(schema: str) -> None:
    result = invoke("How large?", "--schema", schema, "--seed", "1")
    assert list(json.loads(result.stdout)) == ["größe"]
    assert result.stdout.endswith("}\n")
    assert isinstance(json.loads(invoke("{", "--raw", "--schema", schema).stdout), dict)


def test_json_that_is_cut_off_ends_with_an_error(schema: str) -> None:
    check_refusal(invoke("How large?", "--schema", schema, "--max-tokens", "3").exception, IncompleteAnswer)


NO_SCHEMAS = {
    "half": b"{",
    "number": b"5",
    "picture": b"\xff",
    "long": b" " * 70_000,
    "remote": b'{"$ref": "http://example.com"}',
}


@pytest.mark.parametrize("content", NO_SCHEMAS.values(), ids=NO_SCHEMAS)
def test_what_is_no_schema_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "schema.json"
    path.write_bytes(content)
    check_refusal(invoke("How large?", "--schema", str(path)).exception, UsageError, param="schema")


TOOLS = """
import asyncio

def add(a: int, b: int) -> int:
    return a + b

async def later(a: int) -> int:
    await asyncio.sleep(0)
    return a

class Home:
    @staticmethod
    def light(on: bool) -> bool:
        return on
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_tools.py").write_text(TOOLS, "utf-8")
    (tmp_path / "my_broken_tools.py").write_text("1 / 0", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield
    sys.modules.pop("my_tools", None)


@pytest.mark.usefixtures("tools")
def test_a_function_is_named_by_its_module() -> None:
    assert function_of("my_tools:add")(a=1, b=2) == 3
    assert function_of("my_tools:later")(a=4) == 4
    assert function_of("my_tools:Home.light")(on=True) is True
    assert sys.path[-1] == ""


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    "name", ["my_tools", "my_tools:", ":add", "my_tools:subtract", "no_tools:add", "my_broken_tools:add"]
)
def test_what_names_no_function_is_refused(name: str) -> None:
    with refuses(UsageError, param="tool"):
        function_of(name)


def test_a_file_that_is_not_there_is_no_schema() -> None:
    check_refusal(invoke("How large?", "--schema", "nowhere.json").exception, UsageError, param="schema")


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(("flag", "param"), [("--raw", ""), ("--schema", "schema")])
def test_tools_do_not_go_with_everything(flag: str, param: str, schema: str) -> None:
    more = (flag, schema) if flag == "--schema" else (flag,)
    check_refusal(invoke("Add", "--tool", "my_tools:add", *more).exception, UsageError, param=param)


def test_thoughts_and_calls_stay_out_of_what_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for delta in (
        Delta("2 + 2", kind="reasoning"),
        Delta(" is\n", kind="reasoning"),
        Delta("4\x1b[2J", kind="reasoning"),
        Delta("Four", kind="text"),
        Delta(".", kind="text"),
        Delta("add", kind="call_name"),
        Delta('{"a": 1}', kind="call_arguments"),
        Delta("add", kind="call_name", call=1),
        Delta("{}", kind="call_arguments", call=1),
    ):
        screen.show(delta)
    screen.show_result(ToolResult(ToolCall("a\x1bdd", "{}"), "3\x07"))
    screen.show(Delta("Done", kind="text"))
    screen.end()

    shown = capsys.readouterr()
    assert shown.out == "Four.\nDone\n"
    assert shown.err == '2 + 2 is\n4[2J\nadd {"a": 1}\nadd {}\nadd -> 3\n'


def test_an_answer_in_hebrew_is_whole_and_stands_in_the_order_of_its_letters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "columns", lambda **_: 40)
    monkeypatch.setattr(screen_module, "columns", lambda **_: 40)
    screen = Screen()
    for text in ("שלום\u200f! ", "می\u200cخواهم ", "rm \u202e\u2066-rf\u2069 x\u202c\n"):
        screen.show(Delta(text, kind="text"))
    screen.end()
    assert capsys.readouterr().out == "שלום\u200f! می\u200cخواهم rm -rf x\n"


class Scripted:
    """A model of which only the steps are its own."""

    info = SimpleNamespace(n_ctx=4096)

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []

    def count_tokens(self, messages: Any, **options: Any) -> int:
        return len(messages)

    def request(self, messages: Any, **options: Any) -> None:
        assert options["tools"]

    def stream_tools(self, messages: Any, **options: Any) -> Iterator[Any]:
        assert options["truncate"]
        self.asked.append(list(messages))
        done = Timings(0.0, 0.0, 0.0)
        yield Delta("add", kind="call_name")
        yield Delta("{}", kind="call_arguments")
        yield Done("tool_calls", Usage(1, 1), done)
        yield ToolResult(ToolCall("add", "{}", "1"), "3")
        yield Delta("three")
        yield Done("stop", Usage(1, 1), done)


def test_what_was_called_belongs_to_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    llm: Any = Scripted()
    talk = Talk(llm, tools=[len])
    assert talk.say("Add")
    assert talk.say("Again")

    assert [message.role for message in llm.asked[1]] == ["user", "assistant", "tool", "assistant", "user"]
    assert llm.asked[1][1].calls[0].name == "add"
    assert capsys.readouterr().out == "three\nthree\n"
