"""What this plugin registers: one tuner, which is imported when tuners are asked for, not for `--help`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from edgellm.contract.tuner import Tuner

hookimpl = pluggy.HookimplMarker("edgellm")


@hookimpl
def register_tuners(register: Callable[[Tuner], None]) -> None:
    from edgellm_tune.tuner import TorchTuner

    register(TorchTuner())
