"""The names of Windows' processor features; nothing here ran on Windows."""

from __future__ import annotations

from edgellm.hardware import windows


def test_x86_features_and_what_comes_with_avx2() -> None:
    notes: list[str] = []

    assert windows.isa_names("x86_64", {13, 36, 37, 38, 39, 40}.__contains__, notes) == (
        "avx", "avx2", "bmi2", "f16c", "fma", "sse3", "sse41", "sse42", "ssse3",
    )  # fmt: skip
    assert notes == ["f16c, fma and bmi2 are taken to come with avx2: Windows cannot be asked for them"]


def test_arm_features() -> None:
    notes: list[str] = []

    assert windows.isa_names("aarch64", {13, 19, 43, 66}.__contains__, notes) == ("dotprod", "i8mm", "neon")
    assert notes == []
