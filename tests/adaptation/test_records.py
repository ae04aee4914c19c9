"""Training data in the forms that are in use, and what is wrong with the rest: by line, and nothing in silence."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from support.refusals import refuses

from edgellm.adaptation import parquet_rows, reading
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.reading import read_records
from edgellm.app.tune import data as tune_data
from edgellm.errors import UsageError
from edgellm.types.message import Message, Tool, ToolCall
from edgellm.types.tuning_data import DataProblem, DataReport, TrainingChat, TrainingPair, TrainingRecord, TrainingText

ASKED = {"role": "user", "content": "Hi"}
ANSWERED = {"role": "assistant", "content": "Hello"}
CHAT = (Message("user", "Hi"), Message("assistant", "Hello"))
HUMAN = {"from": "human", "value": "Hi"}
CALL = {"function": {"name": "look", "arguments": {"at": "sky"}}, "id": "c1", "type": "function"}
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
TOOL = Tool("look", "Looks.", {"type": "object"})


def read(folder: Path, *rows: object, name: str = "data.jsonl") -> tuple[list[TrainingRecord], DataReport]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / name).write_bytes(b"\n".join(lines))
    findings = Findings()
    return read_records(folder / name, findings), findings.report


class Waiting(io.RawIOBase):
    """A file in which nothing is yet, as /proc/kmsg: it is regular, and does not end."""

    name = "data.json"
    n_reads = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, _: int = 0) -> int:
        return place

    def readinto(self, _: Any) -> int:
        self.n_reads += 1
        assert self.n_reads < 10, "it is read for ever"
        return cast("int", None)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_a_file_in_which_nothing_is_yet_is_empty(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(_: Path) -> Iterator[io.BufferedReader]:
        yield io.BufferedReader(Waiting())

    for module in (reading, tune_data):
        monkeypatch.setattr(module, "data_file", opened)

    assert read_records(tmp_path / name, Findings()) == []
    assert tune_data.file_sha256(tmp_path / name) == hashlib.sha256().hexdigest()


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"messages": [ASKED, ANSWERED]}, TrainingChat(1, CHAT)),
        (
            {
                "messages": [
                    {
                        "role": "developer",
                        "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind"}],
                    },
                    ASKED,
                    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm"},
                    {"role": "tool", "content": "blue", "tool_call_id": "c1"},
                    ANSWERED,
                ],
                "tools": [{"type": "function", "function": FUNCTION}],
            },
            TrainingChat(
                1,
                (
                    Message("system", "Be kind"),
                    CHAT[0],
                    Message("assistant", "", "Hm", (ToolCall("look", '{"at":"sky"}', "c1"),)),
                    Message("tool", "blue", call_id="c1"),
                    CHAT[1],
                ),
                (TOOL,),
            ),
        ),
        (
            {"messages": [ASKED, ANSWERED | {"weight": 0}, ASKED, ANSWERED | {"weight": 1}]},
            TrainingChat(1, CHAT * 2, unlearned=frozenset({1})),
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be"},
            TrainingChat(1, (Message("system", "Be"), *CHAT)),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'},
                    {"from": "observation", "value": "blue"},
                    {"from": "gpt", "value": "Hello"},
                ],
                "tools": json.dumps([FUNCTION]),
            },
            TrainingChat(
                1,
                (
                    CHAT[0],
                    Message("assistant", calls=(ToolCall("look", '{"at":"sky"}'),)),
                    Message("tool", "blue"),
                    CHAT[1],
                ),
                (TOOL,),
            ),
        ),
        ({"conversations": [ASKED, ANSWERED]}, TrainingChat(1, CHAT)),
        ({"prompt": "One, two,", "completion": " three"}, TrainingPair(1, "One, two,", " three")),
        (
            {"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]},
            TrainingChat(1, CHAT * 2, unlearned=frozenset({1})),
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, TrainingChat(1, CHAT)),
        (
            {"instruction": "Say", "input": "Hi", "output": "Hello", "history": [["Hi", "Hello"]], "system": "Be"},
            TrainingChat(1, (Message("system", "Be"), *CHAT, Message("user", "Say\n\nHi"), CHAT[1])),
        ),
        ({"text": "All of it"}, TrainingText(1, "All of it")),
    ],
)
def test_a_row_is_known_by_its_keys(tmp_path: Path, row: object, record: TrainingRecord) -> None:
    records, report = read(tmp_path, row)

    assert records == [record]
    assert report == DataReport(n_lines=1, n_refused=0)


@pytest.mark.parametrize(
    ("row", "kind", "field", "value"),
    [
        (b'{"text": "a', "not_json", "", "JSON is malformed: invalid character (byte 11)"),
        (b'{"text": "\xff"}', "not_utf8", "", "10"),
        (b'{"text": NaN}', "not_json", "", "JSON is malformed: invalid character (byte 9)"),
        pytest.param(b"[" * 100_000, "not_json", "", "", id="deep"),
        (b'["text"]', "not_an_object", "", "a list"),
        ({"question": "a", "answer": "b"}, "no_form", "", "question, answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences", "", "prompt, chosen, rejected"),
        ({"text": 7}, "wrong_type", "text", "a number"),
        ({"text": None}, "missing", "text", ""),
        ({"text": " \n"}, "empty_text", "text", ""),
        ({"prompt": "a", "completion": ""}, "empty_answer", "completion", ""),
        ({"messages": "Hi"}, "not_json", "messages", ""),
        ({"messages": {}}, "wrong_type", "messages", "an object"),
        ({"messages": []}, "no_answer", "", ""),
        ({"messages": [ASKED]}, "no_answer", "", ""),
        ({"messages": [ASKED, ANSWERED | {"weight": 0}]}, "no_answer", "", ""),
        ({"messages": [ASKED, ANSWERED | {"content": ""}]}, "empty_answer", "messages[1]", ""),
        ({"messages": [ASKED, "Hello"]}, "wrong_type", "messages[1]", "text"),
        (
            {"messages": [ASKED | {"content": 7}, ANSWERED]},
            "wrong_type",
            "messages[0].content",
            "has the wrong type: int",
        ),
        ({"messages": [ASKED | {"role": "robot"}, ANSWERED]}, "bad_message", "messages[0]", "unknown role 'robot'"),
        ({"messages": [ASKED | {"tool_calls": [CALL]}, ANSWERED]}, "bad_message", "messages[0]", ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED]},
            "bad_message",
            "messages[0]",
            "a message has a part of type image_url",
        ),
        ({"messages": [ASKED, ANSWERED], "tools": [{"name": "no way"}]}, "bad_tool", "tools", ""),
        ({"messages": [ASKED, ANSWERED], "tools": [7]}, "bad_tool", "tools", ""),
        ({"conversations": [{"from": "alien", "value": "Hi"}]}, "bad_message", "conversations[0].from", "alien"),
        ({"conversations": [{"from": "human"}]}, "missing", "conversations[0].value", ""),
        ({"conversations": [{"from": "function_call", "value": "look"}]}, "bad_message", "conversations[0].value", ""),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, "wrong_type", "history[0]", "a list"),
        ({"conversations": [{"from": "function_call", "value": "[]"}]}, "bad_message", "conversations[0].value", ""),
        pytest.param({"messages": [ASKED, ANSWERED] * 2049}, "too_many", "messages", "4098", id="messages"),
        pytest.param({"conversations": [HUMAN] * 4097}, "too_many", "conversations", "4097", id="turns"),
        pytest.param(
            {"instruction": "a", "output": "b", "history": [["a", "b"]] * 2049},
            "too_many",
            "history",
            "2049",
            id="history",
        ),
        pytest.param(
            {"messages": [ASKED, ANSWERED], "tools": [{"name": "f"}] * 129}, "too_many", "tools", "129", id="tools"
        ),
        pytest.param(
            {"messages": [ASKED, ANSWERED | {"tool_calls": [CALL] * 129}]},
            "too_many",
            "messages[1].tool_calls",
            "129",
            id="calls",
        ),
        pytest.param(
            {"conversations": [HUMAN, {"from": "function_call", "value": "[" + ",".join(["{}"] * 129) + "]"}]},
            "too_many",
            "conversations[1].value",
            "129",
            id="calls of ShareGPT",
        ),
        pytest.param(b'{"text": "a", "more": [%s0]}' % (b"0," * 100_000), "not_json", "", "", id="values"),
        pytest.param({"messages": "[%s0]" % ("0," * 100_000)}, "not_json", "messages", "", id="values in a text"),
        pytest.param(
            {"messages": [ASKED, ANSWERED], "tools": "[%s0]" % ("0," * 100_000)},
            "bad_tool",
            "tools",
            "it holds",
            id="tools in a text",
        ),
        pytest.param(
            {"conversations": [HUMAN, {"from": "function_call", "value": "[%s0]" % ("0," * 100_000)}]},
            "bad_message",
            "conversations[1].value",
            "it holds",
            id="calls in a text",
        ),
    ],
)
def test_what_is_wrong_is_told_by_line(tmp_path: Path, row: object, kind: str, field: str, value: str) -> None:
    records, report = read(tmp_path, {"text": "a"}, b"", row, {"text": "b"})

    assert [record.line for record in records] == [1, 4]
    assert (report.n_lines, report.n_refused, report.counts) == (3, 1, {kind: 1})
    assert report.problems == (DataProblem(3, kind, field, report.problems[0].value),)
    assert report.problems[0].value.startswith(value)
    assert report.problems[0].refuses


def test_what_is_learned_nevertheless_is_told_too(tmp_path: Path) -> None:
    empty = ASKED | {"content": " "}
    records, report = read(tmp_path, {"messages": [empty, ANSWERED], "id": 7, "source": "web"})

    assert len(records) == 1
    assert report.problems == (DataProblem(1, "empty_turn", "messages[0]"),)
    assert report.n_refused == 0
    assert report.ignored == ("id", "source")


def test_a_line_without_an_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1000)
    long = b'{"text": "' + b"a" * 5000 + b'"}'
    records, report = read(tmp_path, {"text": "a"}, long, {"text": "b"}, long)

    assert [record.line for record in records] == [1, 3]
    sizes = [(problem.line, problem.kind, problem.value) for problem in report.problems]
    assert sizes == [(2, "too_long", str(len(long) + 1)), (4, "too_long", str(len(long)))]


def test_a_report_has_an_end(tmp_path: Path) -> None:
    _, report = read(tmp_path, *[[]] * 3000)

    assert (report.n_lines, report.n_refused, len(report.problems)) == (3000, 3000, 1000)
    assert msgspec.json.decode(msgspec.json.encode(report), type=DataReport) == report


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_json_may_be_a_list_and_may_begin_with_a_mark(tmp_path: Path, name: str) -> None:
    rows = [{"text": "a"}, 7, {"text": "b"}]
    lines = rows if name == "data.jsonl" else [rows]
    raw = b"\n".join(json.dumps(line).encode() for line in lines)
    records, report = read(tmp_path, b"\xef\xbb\xbf" + raw, name=name)

    assert records == [TrainingText(1, "a"), TrainingText(3, "b")]
    assert report.problems == (DataProblem(2, "not_an_object", value="a number"),)
    assert read(tmp_path, {"text": "a"}, {"text": "b"}, name="data.json")[0][1].line == 2


CSV = """instruction,output,note
Hi,Hello,1
"Say ""no""
twice","No,
no",2

short,row
Hi,,3
Bye,Bye,4
"""


@pytest.mark.parametrize(("name", "separator"), [("data.csv", ","), ("data.tsv", "\t")])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str, separator: str) -> None:
    with refuses(UsageError, param="data"):
        read(tmp_path, separator.join(["text", "note", "text"]).encode(), b"", name=name)


def test_columns_may_have_no_name(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,,", b"a,,", name="data.csv")[0] == [TrainingText(2, "a")]


@pytest.mark.parametrize(("name", "separator"), [("data.csv", ","), ("data.tsv", "\t")])
def test_columns_are_keys(tmp_path: Path, name: str, separator: str) -> None:
    text = CSV if separator == "," else CSV.replace("No,", "No;").replace(",", "\t").replace("No;", "No,")
    records, report = read(tmp_path, text.encode(), name=name)

    said = [(record.line, *(message.content for message in record.messages)) for record in records]
    assert said == [(2, "Hi", "Hello"), (3, 'Say "no"\ntwice', "No,\nno"), (9, "Bye", "Bye")]
    kinds = [(problem.line, problem.kind, problem.value) for problem in report.problems]
    assert kinds == [(7, "not_csv", "2 values, 3 columns"), (8, "empty_answer", "")]
    assert report.ignored == ("note",)


@pytest.mark.parametrize(
    ("rest", "kind"),
    [
        (b'"no end,\n' + b"a,b\n" * 9, "not_csv"),
        (b"\xff,b\n", "not_utf8"),
        (b'"' + (b"a" * 999 + b"\n") * 4200 + b'",b\n', "too_long"),
        (b'"a\n",' * 900_000 + b"b\n", "too_long"),  # a row of more values than fit into a line of JSON
    ],
)
def test_behind_a_broken_value_nothing_is_read(tmp_path: Path, rest: bytes, kind: str) -> None:
    records, report = read(tmp_path, b"prompt,completion\na,b\n" + rest + b"a,b\n", name="data.csv")

    assert [record.line for record in records] == [2]
    assert [(problem.line, problem.kind) for problem in report.problems] == [(3, kind)]


def test_rows_that_are_long_together_are_read(tmp_path: Path) -> None:
    rows = b"".join(b'"a\n%d","%s"\n' % (number, b"b" * 1_000_000) for number in range(5))
    records, report = read(tmp_path, b"prompt,completion\n" + rows, name="data.csv")

    assert ([record.line for record in records], report.problems) == ([2, 4, 6, 8, 10], ())


def test_a_value_of_csv_may_be_as_long_as_a_line_of_json(tmp_path: Path) -> None:
    usual, long = csv.field_size_limit(), "a" * 200_000
    records, report = read(tmp_path, f"prompt,completion\na,{long}\n".encode(), name="data.csv")

    assert ([record.completion for record in records], report.problems) == ([long], ())
    assert csv.field_size_limit() == usual


def test_messages_in_a_column_are_json(tmp_path: Path) -> None:
    row = json.dumps([ASKED, ANSWERED]).replace('"', '""')
    records, _ = read(tmp_path, f'messages\n"{row}"\n'.encode(), name="data.csv")

    assert records == [TrainingChat(2, CHAT)]


@pytest.mark.parametrize(
    ("limit", "name"),
    [("MAX_FILE_BYTES", "a.jsonl"), ("MAX_JSON_BYTES", "a.json")],
)
def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, name: str
) -> None:
    monkeypatch.setattr(reading, limit, 1)
    with refuses(UsageError, param="data"):
        read(tmp_path, {"text": "a"}, name=name)


def test_a_list_is_counted_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_JSON_VALUES", 1)
    with refuses(UsageError, param="data"):
        read(tmp_path, b'[{"text": "a"}]', name="a.json")


@pytest.mark.parametrize(
    ("rows", "n_values"),
    [
        ([{"text": "a"}] * 3, 3),
        ([{"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}]}] * 2, 8),
        ([{"messages": [ASKED, ANSWERED], "tools": [FUNCTION | {"name": f"f{row}"}]} for row in range(2)], 12),
        ([{"messages": [ASKED, ANSWERED], "tools": [FUNCTION]}] * 2, 10),
    ],
    ids=["texts", "calls", "tools", "the same tool"],
)
def test_what_all_records_hold_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[object], n_values: int
) -> None:
    monkeypatch.setattr(reading, "MAX_HELD", n_values)
    assert len(read(tmp_path, *rows)[0]) == len(rows)
    monkeypatch.setattr(reading, "MAX_HELD", n_values - 1)
    with refuses(UsageError, param="data"):
        read(tmp_path, *rows)


def test_a_tool_that_many_records_bring_is_held_once(tmp_path: Path) -> None:
    first, second = read(tmp_path, *[{"messages": [ASKED, ANSWERED], "tools": [FUNCTION]}] * 2)[0]

    assert isinstance(first, TrainingChat)
    assert isinstance(second, TrainingChat)
    assert first.tools == (TOOL,)
    assert first.tools[0] is second.tools[0]


def test_more_rows_than_are_held_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_RECORDS", 2)
    with refuses(UsageError, param="data"):
        read(tmp_path, {"text": "a"}, 7, {"text": "a"})


@pytest.mark.parametrize("name", ["data.xlsx", "data", "missing.jsonl", "folder.jsonl", "pipe.jsonl"])
def test_what_is_no_file_of_data_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "data").write_text("{}")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with refuses(UsageError, param="data"):
        read_records(tmp_path / name, Findings())


def test_parquet_needs_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refuses(UsageError, param="data"):
        read(tmp_path, b"PAR1", name="data.parquet")


def test_parquet_is_read_row_by_row(tmp_path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pytest.skip("parquet: pyarrow is not installed")
    rows = [{"messages": [ASKED, ANSWERED]}, {"messages": [ASKED]}, {"messages": [ASKED, ANSWERED]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    findings = Findings()

    assert read_records(tmp_path / "data.parquet", findings) == [TrainingChat(1, CHAT), TrainingChat(3, CHAT)]
    assert findings.report.problems == (DataProblem(2, "no_answer"),)
    for raw in (b"PAR1", (tmp_path / "data.parquet").read_bytes()[:-20], b""):
        with refuses(UsageError, param="data", varies="cannot be read: .*"):
            read(tmp_path, raw, name="data.parquet")


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pytest.skip("parquet: pyarrow is not installed")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], ["text", "text"])
    parquet.write_table(table, tmp_path / "data.parquet")

    with refuses(UsageError, param="data"):
        read_records(tmp_path / "data.parquet", Findings())


def test_what_a_parquet_file_unpacks_to_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that stands in it once, and a thousand rows that say so: of 100 MB, and for ever, it would fill memory."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pytest.skip("parquet: pyarrow is not installed")
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, pyarrow.int32()), ["x" * 100_000])
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "data.parquet", compression="zstd")
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 10_000_000)

    with refuses(UsageError, param="data"):
        read_records(tmp_path / "data.parquet", Findings())


def test_a_row_of_parquet_is_as_long_as_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pytest.skip("parquet: pyarrow is not installed")
    table = {"text": ["a" * 2000, "b"], "score": [1.0, float("nan")], "image": [b"1", b"2"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "data.parquet")
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1000)
    findings = Findings()

    assert read_records(tmp_path / "data.parquet", findings) == [TrainingText(2, "b")]
    assert [(problem.kind, problem.value) for problem in findings.report.problems] == [("too_long", "2034")]
    # It is not even made.
    assert [
        row if isinstance(row, int) else len(row) < 50 for row in parquet_rows.rows(tmp_path / "data.parquet", 100)
    ] == [2034, True]


def test_bytes_in_parquet_are_no_text(tmp_path: Path) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pytest.skip("parquet: pyarrow is not installed")
    parquet.write_table(pyarrow.table({"text": [b"a"]}), tmp_path / "data.parquet")
    findings = Findings()

    assert read_records(tmp_path / "data.parquet", findings) == []
    assert [problem.kind for problem in findings.report.problems] == ["wrong_type"]
