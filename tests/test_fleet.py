"""`fleet.toml` as people write it, and as they get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.refusals import refuses

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
    assert (classroom.request.task, classroom.request.ctx, classroom.request.slots) == ("chat", 4096, None)
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
    for name in ("machines/kiosk.toml", "box2.json", "machines/dump"):
        text = BOX.replace("raspberry-pi-5-8gb", name)
        assert fleet_file.load(write(tmp_path, text)).boxes[0].profile == str(tmp_path / name)


def test_a_context_is_written_as_the_flag_takes_it(tmp_path: Path) -> None:
    text = f'[defaults]\nctx = "8k"\n{BOX}[[boxes]]\nname = "b"\nprofile = "this machine"\nctx = "1.5k"\n'

    assert [box.request.ctx for box in fleet_file.load(write(tmp_path, text)).boxes] == [8192, 1536]


def test_the_name_is_the_files_where_none_is_given(tmp_path: Path) -> None:
    assert fleet_file.load(write(tmp_path, BOX)).name == "fleet"


@pytest.mark.parametrize(
    ("text", "param"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("boxes = 3", "boxes", id="no tables"),
        pytest.param("[[boxes]", "", id="half a table"),
        pytest.param("a = " + "9" * 5000, "", id="a number of 5000 digits"),
        pytest.param("a = " + "[" * 5000, "", id="nested"),
        pytest.param(BOX + "min_tps = nan\n", "min_tps", id="no number"),
        pytest.param(BOX + "ctx = true\n", "ctx", id="a bool"),
        pytest.param("color = 1\n" + BOX, "color", id="an unknown key"),
        pytest.param("name = 3\n" + BOX, "name", id="a number for a name"),
        pytest.param("[defaults]\nname = 'x'\n" + BOX, "name", id="a default name"),
        pytest.param("[defaults]\nctx = '4x'\n" + BOX, "ctx", id="a default text"),
        pytest.param(BOX + "contex = 3\n", "contex", id="an unknown key of a box"),
        pytest.param(BOX + BOX.replace('"a"', '"b"') + "ctx = 1\n", "ctx", id="a short context of the second box"),
        pytest.param(BOX + "count = 0\n", "count", id="none of a box"),
        pytest.param(BOX + "count = 0x" + "f" * 6000 + "\n", "boxes.count", id="a count without an end"),
        pytest.param(BOX + 'count = "many"\n', "count", id="a text of a count"),
        pytest.param(BOX + 'task = "poetry"\n', "task", id="an unknown task"),
        pytest.param(BOX + 'max_memory = "lots"\n', "max_memory", id="a size that is none"),
        pytest.param(BOX + "slots = 1000\n", "slots", id="many slots"),
        pytest.param(BOX + "min_tps = -1\n", "min_tps", id="a negative rate"),
        pytest.param(BOX + 'kv = "q3"\n', "kv", id="an unknown cache type"),
        pytest.param(BOX + 'backend = "nope"\n', "backend", id="an unknown backend"),
        pytest.param("[defaults]\nbackend = 'nope'\n" + BOX, "backend", id="an unknown backend for all"),
        pytest.param(BOX + 'gpu_layers = "most"\n', "gpu_layers", id="an unknown word"),
        pytest.param(BOX + BOX, "name", id="a name twice"),
        pytest.param("[[boxes]]\nprofile = 'x'\n", "name", id="no name"),
        pytest.param("[[boxes]]\nname = 'x'\n", "profile", id="no profile"),
        pytest.param('[[boxes]]\nname = "a\\u001b[2J"\nprofile = "x"\n', "name", id="control characters"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_field(tmp_path: Path, text: str, param: str) -> None:
    with refuses(UsageError, param=param, varies=r"(?<=installed: ).*") as caught:
        fleet_file.load(write(tmp_path, text))
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with refuses(UsageError):
        fleet_file.load(tmp_path / "none.toml")


def test_a_profile_in_the_home_of_nobody_is_named_with_its_box(tmp_path: Path) -> None:
    fleet = fleet_file.load(write(tmp_path, BOX.replace("raspberry-pi-5-8gb", "~nobody-there/x.toml")))
    with refuses(UsageError, param="profile"):
        fleet_file.sites(fleet)


def test_a_file_beside_the_fleet_whose_ending_is_left_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "kiosk.toml").write_text("")
    fleet = fleet_file.load(write(tmp_path, BOX.replace("raspberry-pi-5-8gb", "kiosk")))
    with refuses(UsageError, param="profile"):
        fleet_file.sites(fleet)
