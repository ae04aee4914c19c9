"""Which model in which file, out of what, in sentences."""

from __future__ import annotations

from edgellm.explain.bases import basis
from edgellm.types.criterion import (
    BestThatFits,
    Comfortable,
    Criterion,
    EnoughBits,
    FitsBudget,
    FourBitsSuffice,
    KeepsMoreThan,
    NativeQuant,
    NotDominated,
    QualityChecked,
    QuantCriterion,
    ReachesFloor,
    RoomForContext,
    SmallModelQuant,
    Stated,
    SurelyKeepsFloor,
    TrainedContext,
)
from edgellm.types.model import ModelFile
from edgellm.types.reason import (
    BestModel,
    ChosenQuant,
    Considered,
    CouldBeMade,
    FewerBitsScoreMore,
    FewerBitsTaken,
    FilesKept,
    LicenseRestricts,
    ModelNamed,
    ModelReason,
    ModelSkipped,
    NameConvention,
    NameShadowsFile,
    NotQuantized,
    SelectionReason,
    SizeEstimated,
    SourceSilent,
    SourcesReached,
)
from edgellm.units import show_memory, show_params, show_rate, show_size


def model(reason: ModelReason) -> str:
    match reason:
        case ModelNamed():
            return _named(reason)
        case NameShadowsFile():
            shadowed = f"./{reason.path}, which is here too, would name what lies there"
            return f"Model: {reason.model} of the catalog; {shadowed}."
        case ModelSkipped():
            return f"{reason.model} {reason.quant} cannot be had: {reason.error}."
        case BestModel():
            kept = f"{reason.kept:.1%} kept in {reason.quant}"
            ability = f"ability {reason.ability:.0f}, {basis(reason.ability_basis)}"
            score = f"{reason.score:.1f} of 100 ({ability}; {kept})"
            return f"Model: {reason.model} ({show_params(reason.params)}) scores best: {score}."
        case ChosenQuant():
            size = f"{reason.bits:.2f} bits a weight, {show_size(reason.tensor_bytes)}"
            return f"Quantization: {reason.quant} ({size}): {quant_criterion(reason.why)}."
        case FewerBitsScoreMore():
            would = f"would fit, too, and scores {reason.score:.1f} by the table against {reason.chosen_score:.1f}"
            quality = f"its quality may be {reason.quality_low:.0f} to {reason.quality_high:.0f}"
            return f"Fewer bits: {reason.model} {reason.quant} {would}; {quality}, so 4 bits are preferred."
        case FewerBitsTaken():
            return f"Nothing fits at {reason.bits} bits a weight: fewer are taken, expect less coherent answers."
        case CouldBeMade():
            return could_be_made(reason)
        case _:
            return _about_file(reason)


def _named(reason: ModelNamed) -> str:
    match reason.by:
        case "file":
            return f"Model: {reason.model} {reason.quant}, the file that was named."
        case "address":
            return f"Model: {reason.model}, by its header, from {reason.source}."
        case "echo":
            return f"Model: {reason.model}, as named: it says the prompt back."


def could_be_made(reason: CouldBeMade) -> str:
    """How to make a file that would be chosen, and what is taken without it."""
    command = f"`edgellm quantize {reason.model} --to {reason.quant}`"
    name = f"{reason.model} {reason.quant}"
    words = f"{name} is not to be had, but a higher quantization of it is: {command} makes it"
    if not reason.instead:
        return f"{words}."
    if reason.instead == reason.model:
        return f"{words}; it would be taken instead of {reason.instead_quant}."
    taken = f"{reason.instead} {reason.instead_quant} has {reason.instead_score:.1f}"
    return f"{words}; it would score {reason.score:.1f}, {taken}."


def _about_file(reason: SizeEstimated | NotQuantized | NameConvention | LicenseRestricts) -> str:
    match reason:
        case SizeEstimated():
            return "Size: estimated, as the parts of this architecture are not known one by one."
        case NotQuantized():
            command = f"`edgellm quantize {reason.model} --to auto`"
            return f"It is not quantized: {command} makes the one that suits this machine."
        case NameConvention():
            checked = "its name and size are checked before the download"
            return f"Source: the repository usually has this file; {checked}."
        case LicenseRestricts():
            return f"Licence: {reason.license} restricts use; read it before you build on it."


def quant_criterion(why: QuantCriterion) -> str:
    """By what a quantization was chosen."""
    match why:
        case NativeQuant():
            return "the type it was trained in"
        case SurelyKeepsFloor():
            return f"the highest that surely keeps {show_rate(why.floor_tps)} tok/s; a small model needs its bits"
        case KeepsMoreThan():
            return f"with a {why.kv_type} cache it keeps more than {why.quant} with {why.quant_kv_type}"
        case SmallModelQuant():
            return f"a small model takes {why.quant} or higher where it fits and keeps the floor"
        case BestThatFits():
            return "the best that fits and keeps the floor"
        case Comfortable():
            return f"the highest that decodes at {show_rate(why.tok_s)} tok/s or more"
        case FourBitsSuffice():
            return "a large model keeps nearly all of its ability at 4 bits"


def criterion(of: Criterion) -> str:
    """What a rule asks."""
    match of:
        case QualityChecked():
            return "Quality checks made here"
        case TrainedContext():
            return f"Asked for {of.ctx:,} tokens of context"
        case FitsBudget():
            return f"Fits the memory budget of {show_memory(of.budget_bytes)}"
        case EnoughBits():
            better = "a smaller model at 4 bits is better than a bigger one at 2 or 3"
            return f"Weights in {of.bits} bits or more, as {better}"
        case RoomForContext():
            return f"Room for {of.ctx:,} tokens of context"
        case ReachesFloor():
            return f"At least {show_rate(of.floor_tps)} tok/s for {of.task}"
        case NotDominated():
            return "Dominated quantizations"
        case Stated():
            return of.text


def own_types(file: ModelFile) -> str:
    """Where the publisher's mix is not what its name says, and how that is known; "" = it is."""
    if not file.types:
        return ""
    types = ", ".join(f"{role} in {kind}" for role, kind in file.types.items())
    return f"its publisher's own mix: {types}{f' ({file.types_source})' if file.types_source else ''}"


def selection(reason: SelectionReason) -> str:
    match reason:
        case FilesKept():
            lowered = f", {reason.smaller_cache:,} of them with a smaller type of cache" if reason.smaller_cache else ""
            files = f"{reason.kept:,} of {reason.total:,} files stay{lowered}"
            return f"{criterion(reason.criterion)}: {files}."
        case Considered():
            models, files = _count(reason.models, f"{reason.model_kind} model"), _count(reason.files, "file")
            return f"Considered {models} in {files}; {_count(reason.threads, 'thread')}."
        case SourcesReached():
            return _sources(reason)
        case SourceSilent():
            return f"Source {reason.scheme} does not answer: {reason.error}."


def _sources(reason: SourcesReached) -> str:
    name = f"{reason.model} {reason.quant}"
    answering = "offline" if reason.offline else f"reachable: {', '.join(reason.reachable) or 'none'}"
    if not reason.files:
        return f"Sources ({answering}): no file can be had; {name} would be chosen."
    if reason.best_can_be_had:
        return f"Sources ({answering}): the best choice can be had."
    files = _count(reason.files, "file")
    return f"Sources ({answering}): {files} can be had; {name} would be chosen if all answered."


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
