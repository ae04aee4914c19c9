"""Tests of the tuner on torch: all are slow, and skip where it is not installed."""

from __future__ import annotations

import pytest
from support.tuning import WHY_NOT


@pytest.fixture(autouse=True)
def torch_is_there():
    """Not asked at the head of a file, which is read, too, where all its tests are left out."""
    for name in ("torch", "edgellm_tune"):
        pytest.importorskip(name, reason=WHY_NOT)
