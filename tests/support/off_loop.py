"""Whether what takes a while is done beside the event loop, which all streams share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


def calls_off_loop(patch: pytest.MonkeyPatch, owner: Any, name: str) -> list[bool]:
    """For each call of `owner.name` from now on, whether no event loop ran in its thread."""
    real, calls = getattr(owner, name), list[bool]()

    def noted(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            calls.append(True)
        else:
            calls.append(False)
        return real(*args, **kwargs)

    patch.setattr(owner, name, noted)
    return calls
