"""Why a model cannot be had now, and what of it is on this disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellm import explain
from edgellm.app import context as app_context
from edgellm.contract.source import scheme_of
from edgellm.errors import SourceUnreachable, option, speaks_in_flags
from edgellm.store import manifest
from edgellm.store.library import Library
from edgellm.store.manifest import StoredModel
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import SourceSilent


def unavailable(
    wish: Candidate, silent: Mapping[str, str], failures: Sequence[str] = (), *, offline: bool, named: bool
) -> SourceUnreachable:
    """The error where `wish` would be run.

    Args:
        silent: by scheme, why a source does not answer.
        failures: of downloads that were begun, of other files than `wish` perhaps.
        named: by the user.
    """
    entries = [manifest.check(entry) for entry in Library().installed() if entry.model_id == wish.model]
    asked = "offline was asked for" if offline else silent.get(scheme_of(wish.source), "its source does not answer")
    problems = [explain.stored(entry.problem) for entry in entries if entry.problem is not None]
    causes = [*dict.fromkeys((*failures, asked)), *(f"what is stored of it is {problem}" for problem in problems)]
    chosen = "" if named else ", which would be chosen,"
    message = f"{wish.model} {wish.quant}{chosen} cannot be had: {'; '.join(causes)}"
    if offline and named and not entries:  # which quantization it would be is not what is missing
        message = f"{wish.model} is not on this disk, and {asked}; {wish.quant} would be fetched"
    others = _on_this_disk(wish.model, [entry for entry in entries if entry.problem is None])
    if others:
        are = "is" if len(others) == 1 else "are"
        hint = f"{', '.join(others)} of it {are} on this disk: edgellm run {wish.model}:{others[0]}"
    else:
        file = "PATH.gguf in place of its name" if speaks_in_flags() else 'EdgeLLM.load("PATH.gguf")'
        online = f"leave {option('offline')} out, unset EDGELLM_OFFLINE" if offline else "connect to a network"
        choose = "let `edgellm pull` without a name choose" if speaks_in_flags() else "let EdgeLLM.auto() choose"
        other = f", {choose} what can be had from here" if named else ""
        hint = f"{online}{other}, or name a model file: {file}"
    return SourceUnreachable(message, hint=hint)


def _on_this_disk(model: str, sound: Sequence[StoredModel]) -> list[str]:
    """Quantizations of it that need no network."""
    card = next((card for card in app_context.cards() if card.id == model), None)
    outside = [file.quant for file in (card.files if card is not None else ()) if scheme_of(file.source) == "file"]
    return list(dict.fromkeys([*(entry.quant for entry in sound), *outside]))


def missed(decision: Decision, silent: Mapping[str, str]) -> tuple[SourceSilent, ...]:
    """Why what would be chosen was not."""
    scheme = scheme_of(decision.would_choose.source) if decision.would_choose else ""
    return (SourceSilent(scheme, silent[scheme]),) if scheme in silent else ()
