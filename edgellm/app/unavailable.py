"""Why a model cannot be had now, and what of it is on this disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from edgellm import explain
from edgellm.app import context as app_context
from edgellm.bundle import slot_check
from edgellm.bundle.slots import BundleSlot, Slots, installing
from edgellm.contract.source import scheme_of
from edgellm.errors import (
    ArtifactError,
    BadArtifact,
    SourceUnreachable,
    UnsupportedArtifact,
    loading,
    option,
    speaks_in_flags,
)
from edgellm.settings import Environment
from edgellm.store import manifest
from edgellm.store.library import MADE, Library
from edgellm.store.manifest import StoredModel
from edgellm.store.sealed import slot_of
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import SourceSilent
from edgellm.types.store_problem import Forbidden, RecordOfNewer


def unavailable(
    wish: Candidate,
    silent: Mapping[str, str],
    failures: Sequence[str] = (),
    *,
    offline: bool,
    named: bool,
    quants: Collection[str] = (),
    schemes: Collection[str] = (),
) -> SourceUnreachable | ArtifactError:
    """The error where `wish` would be run.

    Args:
        silent: by scheme, why a source does not answer.
        failures: of downloads that were begun, of other files than `wish` perhaps.
        named: by the user.
        quants: of its model, that would do.
        schemes: of the sources that might have what would do.
    """
    entries = _entries(wish.model)
    # No other start changes that. Where a source is silent it may answer the next time.
    told = "; it is not fetched again, as offline was asked for"
    error: ArtifactError | None = _damaged(entries, quants, told) if offline else None
    if error is None and named:
        error = not_in_slot(wish.model, wish.quant)
    if error is not None:
        return error
    asked = ["offline was asked for"] if offline else _silence(wish, silent, schemes)
    problems = [explain.stored(entry.problem) for entry in _meant(entries, quants) if entry.problem is not None]
    causes = [*dict.fromkeys((*failures, *asked)), *(f"what is stored of it is {problem}" for problem in problems)]
    cannot = f"cannot be had: {'; '.join(causes)}"
    if not named:
        message = f"{wish.model} {wish.quant}, which would be chosen, {cannot}"
    elif len(quants) > 1:  # which quantization it would be is not what is missing
        missing = f"is not on this disk, and {asked[0]}" if offline and not entries else cannot
        message = f"{wish.model} {missing}; {wish.quant} would be fetched"
    else:
        message = f"{wish.model} {wish.quant} {cannot}"
    if others := _on_this_disk(wish.model, [entry for entry in entries if entry.problem is None]):
        are = "is" if len(others) == 1 else "are"
        # Where one was named that cannot be had, the model's name alone takes the best of several that are here.
        takes_best = named and len(quants) == 1 and len(others) > 1
        name = wish.model if takes_best else f"{wish.model}:{others[0]}"
        hint = f"{', '.join(others)} of it {are} on this disk: {loading(name)}"
    else:
        name = wish.model if len(quants) > 1 else f"{wish.model}:{wish.quant}"
        hint = _way_on(name if named else "", offline=offline)
    return SourceUnreachable(message, hint=hint)


def _silence(wish: Candidate, silent: Mapping[str, str], schemes: Collection[str]) -> list[str]:
    """Why no source of what would do answers, that of `wish` first: any of them may be the one that would have it."""
    asked = dict.fromkeys([scheme_of(wish.source), *sorted(schemes)])
    return [silent[scheme] for scheme in asked if scheme in silent] or ["its source does not answer"]


def _way_on(name: str, *, offline: bool) -> str:
    """`name`: as `edgellm pull` takes it, "" = the user named none."""
    in_flags = speaks_in_flags()
    file = "PATH.gguf in place of its name" if in_flags else 'EdgeLLM.load("PATH.gguf")'
    online = f"leave {option('offline')} out, unset EDGELLM_OFFLINE" if offline else "connect to a network"
    if name and offline and in_flags:
        online += f" and fetch it with `edgellm pull {name}`"
    choose = "let `edgellm pull` without a name choose" if in_flags else "let EdgeLLM.auto() choose"
    other = f", {choose} what can be had from here" if name else ""
    return f"{online}{other}, or name a model file: {file}"


def damage_of(model: str, quant: str) -> BadArtifact | None:
    """The error where that is stored and damaged, and is not to be fetched again; None = it is not."""
    return _damaged(_entries(model), [quant])


def not_in_slot(model: str, quant: str) -> ArtifactError | None:
    """The error where the store is a slot's, to which nothing is fetched; None = it is not."""
    if (slot := _slot()) is None:
        return None
    for entry in _entries(model):
        if entry.quant == quant and isinstance(entry.problem, (Forbidden, RecordOfNewer)):
            message = f"{model} {quant} is {explain.stored(entry.problem)}"
            return UnsupportedArtifact(message, hint=explain.stored_remedy(entry.problem))
    hint = f"install a bundle that holds it: {installing(slot.folder.parent)}"
    return damage_of(model, quant) or BadArtifact(f"{model} {quant} is not in slot {slot.folder}", hint=hint)


def remedy(entry: StoredModel) -> str:
    """What to do about a damaged one."""
    name = f"{entry.model_id}:{entry.quant}"
    if (slot := _slot()) is not None:
        return slot_check.remedy(slot)
    if entry.source.startswith(MADE):
        return f"make it again: edgellm quantize {entry.model_id} --to {entry.quant}"
    # Not as the flag of the command at hand says, which the next one is not given.
    online = "unset EDGELLM_OFFLINE, and " if Environment.of(os.environ).offline else ""
    return f"{online}fetch it again: edgellm pull {name}"


def _slot() -> BundleSlot | None:
    """That the store is of."""
    folder = slot_of(Library().root)
    return None if folder is None else Slots(folder.parent).slot(folder.name)


def _entries(model: str) -> list[StoredModel]:
    return [manifest.check(entry) for entry in Library().installed() if entry.model_id == model]


def _damaged(entries: Sequence[StoredModel], quants: Collection[str], more: str = "") -> BadArtifact | None:
    for entry in _meant(entries, quants):
        if entry.problem is not None and not isinstance(entry.problem, (Forbidden, RecordOfNewer)):
            hint = remedy(entry)
            if sound := [other.quant for other in entries if other.problem is None]:
                hint += f", or take what is sound: {loading(f'{entry.model_id}:{sound[0]}')}"
            what = f"{entry.model_id} {entry.quant} is {explain.stored(entry.problem)}"
            return BadArtifact(f"{what}{more}", hint=hint)
    return None


def _meant(entries: Sequence[StoredModel], quants: Collection[str]) -> list[StoredModel]:
    """Of several quantizations that would do, one that nobody publishes would do, too."""
    meant = {quant.lower() for quant in quants}
    return [entry for entry in entries if len(meant) != 1 or entry.quant.lower() in meant]


def _on_this_disk(model: str, sound: Sequence[StoredModel]) -> list[str]:
    """Quantizations of it that need no network."""
    card = next((card for card in app_context.cards() if card.id == model), None)
    outside = [file.quant for file in (card.files if card is not None else ()) if scheme_of(file.source) == "file"]
    return list(dict.fromkeys([*(entry.quant for entry in sound), *outside]))


def missed(decision: Decision, silent: Mapping[str, str]) -> tuple[SourceSilent, ...]:
    """Why what would be chosen was not."""
    scheme = scheme_of(decision.would_choose.source) if decision.would_choose else ""
    return (SourceSilent(scheme, silent[scheme]),) if scheme in silent else ()
