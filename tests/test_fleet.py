"""`fleet.toml` as people write it, and as they get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.app import fleet_file
from edgellm.errors import UsageError

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "fleet.toml"
BOX = '[[boxes]]\nname = "a"\nprofile = "raspberry-pi-5-8gb"\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return path


def test_the_example_of_the_docs() -> None:
    fleet = fleet_file.load(EXAMPLE)
    classroom, library, teachers = fleet.boxes

    assert fleet.name == "school"
    assert (classroom.name, classroom.profile, classroom.count) == ("classroom", "raspberry-pi-5-8gb", 12)
    assert (classroom.request.task, classroom.request.ctx, classroom.request.slots) == ("chat", 4096, 1)
    assert (library.request.slots, library.request.min_tps) == (2, 6)
    assert (teachers.request.task, teachers.request.max_memory_bytes) == ("code", 10 * 1024**3)


def test_what_a_box_states_overrules_the_defaults(tmp_path: Path) -> None:
    text = (
        '[defaults]\nctx = 8192\nkv = "q8_0"\n' + BOX + 'ctx = 2048\n[[boxes]]\nname = "b"\nprofile = "this machine"\n'
    )
    a, b = fleet_file.load(write(tmp_path, text)).boxes

    assert (a.request.ctx, a.request.kv_type, a.is_here) == (2048, "q8_0", False)
    assert (b.request.ctx, b.request.kv_type, b.is_here) == (8192, "q8_0", True)


def test_a_profile_that_is_a_file_is_sought_beside_the_fleet(tmp_path: Path) -> None:
    text = BOX.replace("raspberry-pi-5-8gb", "machines/kiosk.toml")

    assert fleet_file.load(write(tmp_path, text)).boxes[0].profile == str(tmp_path / "machines" / "kiosk.toml")


def test_the_name_is_the_files_where_none_is_given(tmp_path: Path) -> None:
    assert fleet_file.load(write(tmp_path, BOX)).name == "fleet"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no boxes"),
        ("boxes = 3", "boxes: must be tables"),
        ("[[boxes]", "no valid TOML.*line 1"),
        ("a = " + "9" * 5000, "no valid TOML"),
        ("a = " + "[" * 5000, "no valid TOML"),
        (BOX + "min_tps = nan\n", "line 1, a: min_tps: min_tps=nan is out of range"),
        (BOX + "ctx = true\n", "line 1, a: ctx: Expected `int | null`, got `bool`"),
        ("color = 1\n" + BOX, "color: unknown key"),
        ("name = 3\n" + BOX, "name: no text"),
        ("[defaults]\nname = 'x'\n" + BOX, "defaults: name: unknown key"),
        ("[defaults]\nctx = '4k'\n" + BOX, "defaults: ctx: Expected `int | null`, got `str`"),
        (BOX + "contex = 3\n", "line 1, a: contex: unknown key"),
        (BOX + BOX.replace('"a"', '"b"') + "ctx = 1\n", "line 4, b: ctx: ctx=1 is out of range"),
        (BOX + "count = 0\n", "line 1, a: count: 0 is out of range"),
        (BOX + 'count = "many"\n', "line 1, a: count: Expected `int`, got `str`"),
        (BOX + 'task = "poetry"\n', "line 1, a: task: unknown task 'poetry'"),
        (BOX + 'max_memory = "lots"\n', "line 1, a: max_memory: 'lots' is not a size"),
        (BOX + "slots = 1000\n", "line 1, a: slots: slots=1000 is out of range"),
        (BOX + "min_tps = -1\n", "line 1, a: min_tps: min_tps=-1.0 is out of range"),
        (BOX + 'kv = "q3"\n', "line 1, a: kv: unknown cache type 'q3'"),
        (BOX + 'gpu_layers = "most"\n', "line 1, a: gpu_layers: gpu_layers='most' is no number"),
        (BOX + BOX, "line 4, a: name: 'a' stands in the file twice"),
        ("[[boxes]]\nprofile = 'x'\n", "line 1: name: must be a text"),
        ("[[boxes]]\nname = 'x'\n", "line 1, x: profile: must name a profile"),
        ('[[boxes]]\nname = "a\\u001b[2J"\nprofile = "x"\n', "line 1: name: must be a text on one line"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=r"fleet\.toml: (.*: )?" + complaint.replace("|", r"\|")) as caught:
        fleet_file.load(write(tmp_path, text))
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        fleet_file.load(tmp_path / "none.toml")
