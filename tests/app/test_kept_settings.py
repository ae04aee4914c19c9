"""Settings of a tuning, read as they were written or not at all."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgellm.app.tune import kept_settings
from edgellm.types.tuning import TuneSettings

GIVEN = TuneSettings(rank=8, learning_rate=1e-3, device="cuda:0")


def test_no_bit_that_flips_changes_them(tmp_path: Path) -> None:
    kept_settings.write(tmp_path, GIVEN)
    assert kept_settings.read(tmp_path) == GIVEN
    file = tmp_path / kept_settings.SETTINGS
    whole = file.read_bytes()

    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            assert kept_settings.read(tmp_path) in (None, GIVEN), (place, bit)


def test_those_of_before_there_was_a_hash_are_taken(tmp_path: Path) -> None:
    (tmp_path / kept_settings.SETTINGS).write_bytes(msgspec.json.encode(GIVEN))

    assert kept_settings.read(tmp_path) == GIVEN
