"""What is planned to be fetched, and whether there is room for it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from test_launch import MACHINE, SMOLLM2

from edgellm.app import context
from edgellm.app.download import PlannedDownload
from edgellm.catalog import lookup
from edgellm.selection.decide import decide
from edgellm.types.reason import NoRoom
from edgellm.types.request import SelectionRequest

pytestmark = pytest.mark.usefixtures("known_machine")


def no_room(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> NoRoom | None:
    """Of the hub's Q8_0 (145 MB), beside which there are the hub's Q4_0 (92 MB) and a package's Q4_1 (99 MB)."""
    card = lookup.find(SMOLLM2)
    wanted = {("hf", "Q8_0"), ("hf", "Q4_0"), ("pypi", "Q4_1")}
    files = tuple(file for file in card.files if (file.source.partition(":")[0], file.quant) in wanted)
    here = replace(context.here(), machine=MACHINE).narrowed([replace(card, files=files)])
    request = SelectionRequest()
    choice = decide(here, request).choice
    assert choice is not None
    assert (choice.quant, len(files)) == ("Q8_0", 3)
    usage = shutil.disk_usage("/")._replace(free=free_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    return PlannedDownload(*here.chosen(choice), choice, here, request).no_room


def test_what_has_room_is_planned_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert no_room(monkeypatch, 10**9) is None


def test_what_is_offered_instead_has_room_by_what_its_source_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package lies beside the file that is unpacked from it, so twice its size must be free."""
    told = no_room(monkeypatch, 170 * 10**6)
    assert told is not None

    assert (told.quant, told.setting, told.free_bytes) == ("Q8_0", "HF_HOME", 170 * 10**6)
    assert told.needed_bytes > told.free_bytes
    assert (told.instead, told.instead_quant, told.limit_bytes) == (SMOLLM2, "Q4_0", 98 * 10**6)


def test_where_nothing_has_room_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    told = no_room(monkeypatch, 100 * 10**6)
    assert told is not None
    assert (told.limit_bytes, told.instead) == (None, "")
