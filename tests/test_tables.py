"""Files of rows: what is refused before it is read, and keys that would take tomllib long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.refusals import refuses

from edgellm import tables
from edgellm.errors import UsageError
from edgellm.tables import MAX_FILE_BYTES, MAX_KEY_PARTS, json_rows, parse_toml, read_text

ROWS = Path("rows.toml")
MANY = 50_000  # parts of a key, which take tomllib gigabytes


def test_what_is_no_file_is_refused() -> None:
    with refuses(UsageError, varies=os.devnull):
        read_text(Path(os.devnull), "a hint")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows")
    with refuses(UsageError, varies=str(tmp_path)):
        read_text(tmp_path / "rows", "a hint")


def test_a_file_of_any_size_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with refuses(UsageError, varies=str(tmp_path)):
        read_text(tmp_path / "rows", "a hint")


def test_a_mark_of_utf_8_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_text(tmp_path / "rows", "a hint") == "a = 1\n"


@pytest.mark.parametrize("number", ["0x" + "f" * 6000, "0x1" + "0" * 16, "0o" + "7" * 6000, "0b" + "1" * 20_000])
@pytest.mark.parametrize("form", ["a.b = {}", "a = {{b = [1, [{}]]}}", "[[a]]\nb = {}"])
def test_a_number_that_no_message_could_show_is_refused(form: str, number: str) -> None:
    with refuses(UsageError, param="a.b"):
        parse_toml(form.format(number), ROWS, "a hint")


def test_a_number_of_json_has_a_bound_too() -> None:
    with refuses(UsageError, param="a"):
        list(json_rows('{"a": ' + "9" * 4000 + "}", ROWS, "a hint"))


@pytest.mark.parametrize("part", ["a", "'='", '"="', '"\\"="', " a\t", '""', "'#'"])
@pytest.mark.parametrize("form", ["{} = 1", "[{}]", "[[{}]]", "x = {{{} = 1}}", 'x = {{y = """" """", {} = 1}}'])
def test_a_key_of_many_parts_is_refused(form: str, part: str) -> None:
    with refuses(UsageError):
        parse_toml(form.format(".".join([part] * MANY)), ROWS, "a hint")


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * MAX_KEY_PARTS) + " = 1",
        f'a = "{"." * 99}"',
        f"a = '{'.' * 99}'",
        f'a = """{"." * 99}\n"{"." * 99}""""',
        f"a = '''{'.' * 99}\n'{'.' * 99}''''",
        f"a = 1  # {'.' * 99}",
        f"a = [{', '.join(['0.5'] * 99)}]",
    ],
)
def test_points_that_are_in_no_key_are_read(text: str) -> None:
    assert parse_toml(text, ROWS, "a hint")


@pytest.mark.parametrize("row", ["a{0}.b.c = 1\n", "[a{0}]\n", "[[a]]\n", "a{0} = {{}}\n", "a{0} = [{{}}, []]\n"])
def test_a_file_of_very_many_keys_is_refused(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes tomllib up to a kilobyte, so 8 MB took 2.3 GB."""
    monkeypatch.setattr(tables.tomllib, "loads", lambda _: pytest.fail("read"))
    with refuses(UsageError):
        parse_toml("".join(map(row.format, range(tables.MAX_MARKS + 1))), ROWS, "a hint")


@pytest.mark.parametrize("text", ['"' + '\\"' * 1_000_000, "'" * 1_000_001, '"""' + '""\\"' * 1_000_000])
def test_a_text_that_is_never_closed_is_read_once(text: str) -> None:
    with refuses(UsageError, varies="TOML: .*"):
        parse_toml(text, ROWS, "a hint")


def test_a_line_of_very_many_values_is_refused() -> None:
    with refuses(UsageError):
        list(json_rows(f"{{}}\n[{'[],' * 100_000}1]\n", ROWS, "a hint"))
