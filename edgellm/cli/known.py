"""What a decision for this machine is told beside the catalog: what is stored and what was measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm.machine import Machine
    from edgellm.selection.facts import BackendFacts


def known_here(machine: Machine, facts: Sequence[BackendFacts], *, is_here: bool) -> dict[str, Any]:
    """Arguments of `decide`, by name; none of them where the machine is another one."""
    if not is_here:
        return {}
    from edgellm import launch
    from edgellm.measured import history
    from edgellm.store.library import Library

    return {
        "local": Library().local_keys(),
        "corrections": launch.corrections(machine, facts),
        "vetoes": history.vetoes(machine),
        "divergences": launch.divergences(machine),
    }
