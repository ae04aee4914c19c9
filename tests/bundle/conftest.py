from __future__ import annotations

import platform
from typing import Any

import pytest


@pytest.fixture
def this_machine() -> dict[str, Any]:
    """Fields of a target that this machine is."""
    return {"arch": platform.machine(), "os": platform.system().lower()}
