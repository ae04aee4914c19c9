"""Sizes as people write them, and back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.units import (
    counted,
    parse_bytes,
    parse_rate,
    parse_tokens,
    show_memory,
    show_moment,
    show_params,
    show_rate,
    show_size,
)


@pytest.mark.parametrize(
    ("iso", "shown"),
    [
        ("2026-11-28T22:39:35+00:00", "2026-11-29 00:39"), ("", ""), ("yesterday", "yesterday"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00"),
    ],
)  # fmt: skip
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system has no TZ")
def test_a_moment_is_shown_on_the_clock_here(iso: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    try:
        assert show_moment(iso) == shown
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0), ("98362432", 98362432), ("512b", 512), ("1k", 1024), ("1kB", 1000), ("700MiB", 734003200),
        ("2GiB", 2**31), ("2g", 2**31), ("1.5GB", 1_500_000_000), (" 4 TiB ", 4 * 1024**4), ("0.5kib", 512),
    ],
)  # fmt: skip
def test_parse(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1e9", "1 000", "2 GiBs", "1.2.3", "٣GiB", "nan", "1,5GB", "9" * 5000]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with refuses(UsageError):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "rate"), [("2MB/s", 2_000_000), ("2MB", 2_000_000), (" 1MiB/s ", 2**20), ("5", 5)])
def test_parse_rate(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8192", 8192),
        ("32k", 32768),
        ("32K", 32768),
        ("1m", 1048576),
        ("8,192", 8192),
        (" 4 k", 4096),
        ("1.5k", 1536),
        ("1_000_000", 10**6),
    ],
)
def test_parse_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "-1", "1,5k", "8,19", "819,2", "1.5", "32kB", "many"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with refuses(UsageError, param="ctx"):
        parse_tokens(text)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "2MB/m", "0.1"])
def test_what_is_no_rate_is_refused_with_an_example(text: str) -> None:
    with refuses(UsageError):
        parse_rate(text)


@given(st.integers(0, 2**50), st.sampled_from(["", "KiB", "MB", "GiB"]))
def test_whole_numbers_are_exact(number: int, suffix: str) -> None:
    factor = {"": 1, "KiB": 1024, "MB": 10**6, "GiB": 1024**3}[suffix]
    assert parse_bytes(f"{number}{suffix}") == number * factor


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_memory(2**30), "1.00 GiB"), (show_memory(700 * 2**20), "700 MiB"), (show_memory(5), "5 B"),
        (show_memory(1280 * 1024), "1 MiB"), (show_memory(1280 * 1024, exact=True), "1280 KiB"),
        (show_memory(24 * 2**20, exact=True), "24 MiB"), (show_memory(1001, exact=True), "1001 B"),
        (show_memory(0, exact=True), "0 B"), (show_memory(2**30, exact=True), "1 GiB"),
        (show_size(98362432), "98.4 MB"), (show_size(2.5e9), "2.50 GB"), (show_size(999), "999 B"),
        (show_params(134515008), "135M"), (show_params(8030261248), "8.0B"),
        (show_params(999885952), "1.0B"), (show_params(999499999), "999M"),
        (show_params(999499), "999K"), (show_params(999500), "1M"), (show_params(40000), "40K"),
        (show_params(999), "999"),
        (show_rate(10.44), "10.4"), (show_rate(999.4), "999"), (show_rate(999.6), "1,000"),
        (show_rate(2714.0), "2,710"), (show_rate(0.0665), "0.07"), (show_rate(0.96), "0.96"), (show_rate(0.775), "0.8"),
        (counted(1, "slot"), "1 slot"), (counted(0, "slot"), "0 slots"), (counted(1024, "slot"), "1,024 slots"),
    ],
)  # fmt: skip
def test_show(shown: str, expected: str) -> None:
    assert shown == expected
