"""The machines that wheels are made for: how pip, CMake and zig are told of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from packaging.tags import parse_tag
from packaging.utils import parse_wheel_filename
from support.made_wheels import script

targets = script("targets")
NAMES = sorted(targets.TARGETS)


def test_linux_with_glibc_is_what_is_made_unasked() -> None:
    assert targets.USUAL == ("x86_64", "aarch64")


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_is_for_every_python_of_one_platform(name: str) -> None:
    target = targets.TARGETS[name]
    _, _, _, tags = parse_wheel_filename(f"edgellm_bitnet-0.1.0-{target.tag}.whl")

    assert tags == parse_tag(f"py3-none-{target.platform}")
    assert len(tags) == 1


def test_no_two_targets_have_one_tag() -> None:
    platforms = [target.platform for target in targets.TARGETS.values()]
    assert len(set(platforms)) == len(platforms)


@pytest.mark.parametrize("name", NAMES)
def test_what_an_installation_needs_is_fetched_by_its_own_tag_first(name: str) -> None:
    target = targets.TARGETS[name]
    assert target.older[:1] == ((target.platform,) if target.libc and name != "armv7" else ())


@pytest.mark.parametrize("name", NAMES)
def test_a_toolchain_names_its_machine_and_nothing_of_this_one(name: str, tmp_path: Path) -> None:
    target = targets.TARGETS[name]
    file = script("cross").write_toolchain(target, tmp_path, {tmp_path: "build"})

    lines = file.read_text("utf-8").splitlines()
    assert lines[0] == f"set(CMAKE_SYSTEM_NAME {target.system})"
    assert not [line for line in lines if "{" in line.replace("${kind}", "")]
    for program in ("cc", "c++", "ar"):
        assert os.access(tmp_path / program, os.X_OK)
    assert f" cc {target.triple} " in (tmp_path / "cc").read_text("utf-8")


@pytest.mark.parametrize(
    ("given", "features"),
    [
        ("-march=armv8-a", ["+v8a"]),
        ("-march=armv8.2-a+dotprod+fp16", ["+v8.2a", "+dotprod", "+fullfp16"]),
        ("-march=armv9.2-a+dotprod+i8mm+nosve+sme", ["+v9.2a", "+dotprod", "+i8mm", "-sve", "+sme"]),
    ],
)
def test_code_for_arm_is_named_to_clang(given: str, features: list[str]) -> None:
    taken = script("cross").for_zig([given])

    assert taken[3::4] == features
    assert set(taken[0::2]) == {"-Xclang"}


@pytest.mark.parametrize(("given", "taken"), [(["-c", "main.o"], []), (["id.cpp"], ["-s"]), (["-shared"], ["-s"])])
def test_whatever_is_linked_has_no_symbols(given: list[str], taken: list[str]) -> None:
    assert script("cross").for_linking(given) == taken


def test_a_module_for_macos_is_linked_as_a_library() -> None:
    given = ["-O3", "-arch", "arm64", "-bundle", "-o", "bin/libggml-cpu.so", "main.o"]
    named = ["-dynamiclib", "-install_name", "@rpath/libggml-cpu.so"]
    assert script("cross").for_zig(given) == ["-O3", *named, "-o", "bin/libggml-cpu.so", "main.o"]
