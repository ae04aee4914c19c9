"""Structures that C and Python share: a field that moves, grows, is added or dropped is refused by its name."""

from __future__ import annotations

import ctypes
from ctypes import c_int32

import pytest
from edgellm_bitnet import native
from support.refusals import refuses

from edgellm.errors import BackendUnavailable

LIBRARY = r"\S+libedgellm_bitnet\.\w+"


def test_the_library_and_python_agree() -> None:
    assert native.library() is not None  # `check_layout` has passed
    layout = native.expected_layout()

    assert layout["matrix"] == (0, ctypes.sizeof(native.Matrix))
    assert layout["matrix.data"][0] == 16
    assert layout["PANEL"] == (32, 0)


def test_two_fields_that_change_places_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moved(ctypes.Structure):
        first, second, *rest = native.Matrix._fields_
        _fields_ = [second, first, *rest]

    theirs = native.expected_layout()
    monkeypatch.setitem(native.STRUCTURES, "matrix", Moved)
    with refuses(BackendUnavailable, varies=LIBRARY):
        native.check_layout(theirs)


def test_a_field_that_only_one_side_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        _fields_ = [*native.Cache._fields_, ("new", c_int32)]

    ours = native.expected_layout()
    with refuses(BackendUnavailable, varies=LIBRARY):
        native.check_layout({name: place for name, place in ours.items() if name != "matrix.group"})
    with monkeypatch.context() as patch:
        patch.setitem(native.STRUCTURES, "cache", Longer)
        with refuses(BackendUnavailable, varies=LIBRARY):
            native.check_layout(ours)


@pytest.mark.parametrize("name", ["PANEL", "Q6", "SRC_TQ2_0", "KV_I8", "INPUTS"])
def test_a_constant_of_another_value_is_refused(name: str) -> None:
    layout = native.expected_layout()
    with refuses(BackendUnavailable, varies=LIBRARY):
        native.check_layout(layout | {name: (layout[name][0] + 1, 0)})


def test_a_field_moved_in_the_library_is_refused_when_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the real library: here Python is the side that changed."""
    moved = type("Moved", (ctypes.Structure,), {"_fields_": [*native.Model._fields_[1:], native.Model._fields_[0]]})
    monkeypatch.setitem(native.STRUCTURES, "model", moved)
    with refuses(BackendUnavailable, varies=LIBRARY):
        native.library.__wrapped__()
