"""Of folders of wheels, those that a machine needs, and a refusal that names what is missing."""

from __future__ import annotations

import os
import re

import pytest
from support.bundles import wheel
from support.refusals import refuses

from edgellm.bundle import papers, wheels
from edgellm.bundle.wheels import Platform
from edgellm.errors import UsageError

PI = Platform("aarch64", "3.13", "2.28")


def names(folder, *roots, platform=PI):
    return [f"{found.name} {found.version}" for found in wheels.needed(roots, [folder], platform)]


def test_what_is_required_comes_along(tmp_path):
    wheel(tmp_path, "core-1.0", more="Requires-Dist: beside>=2\nRequires-Dist: never; sys_platform == 'win32'\n")
    wheel(tmp_path, "beside-2.5")
    wheel(tmp_path, "beside-1.9")
    wheel(tmp_path, "unasked-1.0")

    assert names(tmp_path, "core") == ["beside 2.5", "core 1.0"]


def test_an_extra_comes_where_it_is_asked_for(tmp_path):
    wheel(tmp_path, "core-1.0", more="Provides-Extra: more\nRequires-Dist: beside; extra == 'more'\n")
    wheel(tmp_path, "beside-1.0")

    assert names(tmp_path, "core") == ["core 1.0"]
    assert names(tmp_path, "core[more]") == ["beside 1.0", "core 1.0"]


def test_a_later_wish_takes_an_older_release(tmp_path):
    wheel(tmp_path, "core-1.0", more="Requires-Dist: shared\nRequires-Dist: other\n")
    wheel(tmp_path, "other-1.0", more="Requires-Dist: shared<2\n")
    wheel(tmp_path, "shared-2.0")
    wheel(tmp_path, "shared-1.0")

    assert names(tmp_path, "core") == ["core 1.0", "other 1.0", "shared 1.0"]


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("cp313-cp313-manylinux_2_28_aarch64", True),
        ("cp313-cp313-manylinux2014_aarch64.manylinux_2_17_aarch64", True),
        ("cp38-abi3-manylinux_2_17_aarch64", True),
        ("py3-none-linux_aarch64", True),
        ("py3-none-manylinux_2_17_aarch64", True),
        ("cp313-cp313-manylinux_2_31_aarch64", False),  # a newer glibc
        ("cp312-cp312-manylinux_2_28_aarch64", False),
        ("cp313-cp313-manylinux_2_28_x86_64", False),
        ("cp313-cp313-musllinux_1_2_aarch64", False),
        ("cp314-abi3-manylinux_2_17_aarch64", False),
    ],
)
def test_only_what_runs_there_is_taken(tag, fits, tmp_path):
    wheel(tmp_path, "core-1.0", tag=tag)

    if fits:
        assert names(tmp_path, "core") == ["core 1.0"]
    else:
        with refuses(UsageError, param="wheels"):
            names(tmp_path, "core")


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-musllinux_1_2_x86_64", True),
        ("cp313-cp313-musllinux_1_0_x86_64", True),
        ("py3-none-musllinux_1_3_x86_64", False),
        ("py3-none-manylinux_2_17_x86_64", False),
        ("py3-none-musllinux_1_2_aarch64", False),
    ],
)
def test_a_machine_with_musl_takes_what_is_for_musl(tag, fits, tmp_path):
    wheel(tmp_path, "core-1.0", tag=tag)
    alpine = Platform("x86_64", "3.13", "", musl="1.2")

    if fits:
        assert names(tmp_path, "core", platform=alpine) == ["core 1.0"]
    else:
        with refuses(UsageError, param="wheels"):
            names(tmp_path, "core", platform=alpine)


def test_of_one_release_the_closest_is_taken(tmp_path):
    for tag in ("py3-none-any", "cp313-cp313-manylinux_2_17_aarch64", "cp313-cp313-manylinux_2_28_aarch64"):
        wheel(tmp_path, "core-1.0", tag=tag)

    (taken,) = wheels.needed(["core"], [tmp_path], PI)
    assert "2_28" in taken.path.name


def test_all_that_is_missing_is_named_at_once(tmp_path):
    wheel(tmp_path, "core-1.0", more="Requires-Dist: numpy>=1.26\nRequires-Dist: psutil>=6\n")
    wheel(tmp_path, "psutil-5.9")

    with refuses(UsageError, param="wheels"):
        names(tmp_path, "core", "edgellm-gguf")


@pytest.mark.parametrize("case", ["no folder", "name", "content"])
def test_what_is_no_wheel_is_refused(case, tmp_path):
    if case == "name":
        (tmp_path / "x.whl").touch()
    elif case == "content":
        (tmp_path / "core-1.0-py3-none-any.whl").write_bytes(b"PK")

    with refuses(UsageError, param="wheels"):
        names(tmp_path / "none" if case == "no folder" else tmp_path, "core")


@pytest.mark.parametrize("version", ["3", "3.x", "3.13.1", ""])
def test_a_python_has_two_numbers(version, tmp_path):
    with refuses(UsageError, param="python"):
        names(tmp_path, "core", platform=Platform("aarch64", version, "2.28"))


def flag(content: bytearray, local: int, central: int, value: int) -> None:
    """Set a byte of the header of each member, before its bytes and in the list at the end."""
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        for match in re.finditer(re.escape(mark), bytes(content)):
            content[match.start() + offset] = value


def damage(content: bytearray) -> None:
    """Of the first member, which is stored as it is: its checksum no longer agrees."""
    content[content.index(b"Metadata-Version")] ^= 1


BROKEN = {
    "encrypted": lambda content: flag(content, 6, 8, 1),
    "an unknown compression": lambda content: flag(content, 8, 10, 97),
    "no deflated bytes": lambda content: flag(content, 8, 10, 8),
    "no lzma": lambda content: flag(content, 8, 10, 14),
    "damaged": damage,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wheel_that_cannot_be_unpacked_is_named(case, tmp_path):
    path = wheel(tmp_path, "core-1.0")
    content = bytearray(path.read_bytes())
    BROKEN[case](content)
    path.write_bytes(content)

    with refuses(UsageError, param="wheels", varies="sound wheel: .*"):
        names(tmp_path, "core")


WRONG = {
    "above": {"../../x": b""},
    "absolute": {"/x": b""},
    "of-data": {"core-1.0.data/scripts/../../../x": b""},
    "data-as-a-file": {"core-1.0.data": b""},
    "data-of-no-folder": {"core-1.0.data/x": b""},
    "nearly-data": {"core-1.0.data2/x": b""},
    "data-from-here": {"./core-1.0.data/scripts/x": b""},
    "below-a-file": {"core/a": b"", "core/a/b": b""},
    "long-name": {f"core/{'a' * 256}.py": b""},
    "long-list": {"core-1.0.dist-info/RECORD": bytes(33 * 1024**2)},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wheel_that_cannot_be_installed_is_refused_before_it_goes_along(case, tmp_path):
    wheel(tmp_path, "core-1.0", files=WRONG[case])

    with refuses(UsageError, param="wheels"):
        names(tmp_path, "core")


def test_a_byte_that_changed_in_any_file_is_found_before_it_goes_along(tmp_path):
    path = wheel(tmp_path, "core-1.0", files={"core/x.py": b"x = 12345"})
    path.write_bytes(path.read_bytes().replace(b"12345", b"12354"))

    with refuses(UsageError, param="wheels"):
        names(tmp_path, "core")


@pytest.mark.parametrize(("name", "most"), [("_MAX_FILES", 2), ("_MAX_UNPACKED", 100)])
def test_a_wheel_without_bound_is_not_read(name, most, tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, name, most)
    wheel(tmp_path, "core-1.0", files={"core/x.py": bytes(100)})

    with refuses(UsageError, param="wheels", varies="[0-9]+ bytes"):
        names(tmp_path, "core")


def test_how_much_a_wheel_takes_is_known_before_it_is_unpacked(tmp_path):
    path = wheel(tmp_path, "core-1.0", files={"core/x.bin": bytes(10**6)})
    (taken,) = wheels.needed(["core"], [tmp_path], PI)

    assert path.stat().st_size < 10**5
    assert 10**6 < taken.unpacked_bytes < 10**6 + 1000


def test_a_wheel_that_asks_for_thousands_is_refused(tmp_path):
    wheel(tmp_path, "core-1.0", more="".join(f"Requires-Dist: a{no}\n" for no in range(1001)))

    with refuses(UsageError, param="wheels"):
        names(tmp_path, "core")


def test_what_a_wheel_is_called_within_is_told_in_part(tmp_path):
    path = wheel(tmp_path, "core-1.0", files={f"core/{'a/' * 5000}x.py": b"x = 12345"})
    path.write_bytes(path.read_bytes().replace(b"12345", b"12354"))

    with refuses(UsageError, param="wheels") as caught:
        names(tmp_path, "core")
    assert len(str(caught.value)) < 1000


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path):
    with refuses(UsageError, param="wheels"):
        names(tmp_path / ("x" * 300), "core")


@pytest.mark.parametrize("case", BROKEN)
def test_a_wheel_whose_licences_cannot_be_read_is_named(case, tmp_path):
    path = wheel(tmp_path, "core-1.0")
    (taken,) = wheels.needed(["core"], [tmp_path], PI)
    content = bytearray(path.read_bytes())
    BROKEN[case](content)
    content[:] = content.replace(b"of core", b"of corn") if case == "damaged" else content
    path.write_bytes(content)

    with refuses(UsageError, param="wheels", varies="sound wheel: .*"):
        papers.texts_of([taken])


@pytest.mark.parametrize("requirement", ["!!! bad", "beside; python_version ~= 'x'", "beside; nothing == '1'"])
def test_a_wheel_that_asks_for_what_has_no_meaning_is_named(requirement, tmp_path):
    wheel(tmp_path, "core-1.0", more=f"Requires-Dist: {requirement}\n")

    with refuses(UsageError, param="wheels", varies="(?s)sound wheel: .*?(?=; fetch|$)"):
        names(tmp_path, "core")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_with_the_name_of_a_wheel_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "core-1.0-py3-none-any.whl")

    with refuses(UsageError, param="wheels"):
        names(tmp_path, "core")
