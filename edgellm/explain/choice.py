"""Which model in which file, out of what, in sentences."""

from __future__ import annotations

from edgellm.errors import option
from edgellm.explain.bases import basis, when_alone
from edgellm.types import criterion, model_reason, reason
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Decision
from edgellm.units import counted, show_memory, show_params, show_rate, show_size


def model(fact: model_reason.ModelReason) -> str:
    match fact:
        case model_reason.ModelNamed():
            return _named(fact)
        case model_reason.NameShadowsFile():
            shadowed = f"./{fact.path}, which is here too, would name what lies there"
            return f"Model: {fact.model} of the catalog; {shadowed}."
        case model_reason.NameTaken():
            return f"Model: {fact.typed} is taken as {fact.model}."
        case model_reason.ModelSkipped():
            return f"{fact.model} {fact.quant} cannot be had: {fact.error}."
        case model_reason.BestModel():
            kept = f"its best-scoring file, {fact.quant}, keeps {fact.kept:.1%} of it"
            ability = f"ability {fact.ability:.0f} of 100, {basis(fact.ability_basis)}"
            score = f"{fact.score:.1f} ({ability}; {kept}; weighed by how sure that is, and by speed)"
            how = "is the only one left, and scores" if fact.alone else "scores" if fact.named else "scores best:"
            return f"Model: {fact.model} ({show_params(fact.params)}) {how} {score}."
        case model_reason.ChosenQuant():
            size = f"{fact.bits:.2f} bits a weight, {show_size(fact.tensor_bytes)}"
            return f"Quantization: {fact.quant} ({size}): {quant_criterion(fact.why)}."
        case model_reason.FewerBitsScoreMore():
            would = f"would fit, too, and scores {fact.score:.1f} by the table against {fact.chosen_score:.1f}"
            quality = f"its quality may be {fact.quality_low:.0f} to {fact.quality_high:.0f}"
            return f"Fewer bits: {fact.model} {fact.quant} {would}; {quality}, so 4 bits are preferred."
        case model_reason.FewerBitsTaken():
            return f"Nothing fits at {fact.bits} bits a weight: fewer are taken, expect less coherent answers."
        case model_reason.CouldBeMade():
            return could_be_made(fact)
        case _:
            return _about_file(fact)


def _named(fact: model_reason.ModelNamed) -> str:
    match fact.by:
        case "file":
            return f"Model: {fact.model} {fact.quant}, the file that was named."
        case "address":
            return f"Model: {fact.model}, by its header, from {fact.source}."
        case "echo":
            return f"Model: {fact.model}, as named: it says the prompt back."


def could_be_made(fact: model_reason.CouldBeMade) -> str:
    """How to make a file that would be chosen, and what is taken without it."""
    command = f"`edgellm quantize {fact.path or fact.model} --to {fact.quant}`"
    name = f"{fact.model} {fact.quant}"
    words = f"{name} is not to be had, but a higher quantization of it is: {command} makes it"
    if not fact.instead:
        return f"{words}."
    if fact.instead == fact.model:
        return f"{words}; it would be taken instead of {fact.instead_quant}."
    taken = f"{fact.instead} {fact.instead_quant} has {fact.instead_score:.1f}"
    return f"{words}; it would score {fact.score:.1f}, {taken}."


def _about_file(fact: model_reason.FileReason) -> str:
    match fact:
        case model_reason.SizeEstimated():
            return "Size: estimated, as the parts of this architecture are not known one by one."
        case model_reason.NotQuantized():
            command = f"`edgellm quantize {fact.model} --to auto`"
            return f"It is not quantized: {command} makes the one that suits this machine."
        case model_reason.NameConvention():
            checked = "its name and size are checked before the download"
            return f"Source: the repository usually has this file; {checked}."
        case model_reason.LicenseRestricts():
            return f"Licence: {fact.license} restricts use; read it before you build on it."


def quant_criterion(why: criterion.QuantCriterion) -> str:
    """By what a quantization was chosen."""
    match why:
        case criterion.NativeQuant():
            return "the type it was trained in"
        case criterion.SurelyKeepsFloor():
            quiet = when_alone(why.alone, why.alone_threads)
            surely = f"the highest{_of_what(why)} that fits and surely keeps {show_rate(why.floor_tps)} tok/s{quiet}"
            return f"{surely}; a small model needs its bits"
        case criterion.KeepsMoreThan():
            return f"with a {why.kv_type} cache it keeps more than {why.quant} with {why.quant_kv_type}"
        case criterion.SmallModelQuant():
            return f"a small model takes {why.quant} or higher where it fits and keeps the floor"
        case criterion.OnlyQuant():
            return "no other file of this model was considered"
        case criterion.OnlyQuantLeft():
            return "the only file of this model that is left"
        case criterion.BestThatFits():
            return f"the best{_of_what(why)} that fits and keeps the floor"
        case criterion.Comfortable():
            return f"the highest{_of_what(why)} that fits and decodes at {show_rate(why.tok_s)} tok/s or more"
        case criterion.FourBitsSuffice():
            return "a large model keeps nearly all of its ability at 4 bits"
        case criterion.OnThisDisk():
            other = f"{why.quant}, which is not, would keep {why.quant_kept:.1%}"
            return f"it is on this disk and keeps {why.kept:.1%} of the ability; {other}"


def _of_what(why: criterion.Highest) -> str:
    match why.lost_to:
        case "":
            return ""
        case "download":
            return f" with at most {show_size(why.limit_bytes or 0)} to fetch"
        case "sources":
            return " of what can be had now"
        case "backend":
            return f" of what {why.backend} opens"
        case "rules":
            return " of what is left"


def rule_criterion(of: criterion.Criterion) -> str:
    """What a rule asks."""
    match of:
        case criterion.QualityChecked():
            return "Quality checks made here"
        case criterion.TrainedContext():
            return f"Asked for {of.ctx:,} tokens of context"
        case criterion.SmallDownload():
            return f"On this disk, or at most {show_size(of.limit_bytes)} to fetch"
        case criterion.FitsBudget():
            return f"Fits the memory budget of {show_memory(of.budget_bytes)}"
        case criterion.EnoughBits():
            better = "a smaller model at 4 bits is better than a bigger one at 2 or 3"
            return f"Weights in {of.bits} bits or more, as {better}"
        case criterion.RoomForContext():
            return f"Room for {of.ctx:,} tokens of context"
        case criterion.ReachesFloor():
            return f"At least {show_rate(of.floor_tps)} tok/s for {of.task}"
        case criterion.NotDominated():
            return "Not beaten in size, speed and quality by another file of the same model"
        case criterion.Stated():
            return of.text


def own_types(file: ModelFile) -> str:
    """Where the publisher's mix is not what its name says, and how that is known; "" = it is."""
    if not file.types:
        return ""
    types = ", ".join(f"{role} in {kind}" for role, kind in file.types.items())
    return f"its publisher's own mix: {types}{f' ({file.types_source})' if file.types_source else ''}"


def selection(fact: reason.SelectionReason) -> str:
    match fact:
        case reason.FilesKept():
            lowered = f", {fact.smaller_cache:,} of them with a smaller type of cache" if fact.smaller_cache else ""
            files = f"{fact.kept:,} of {fact.total:,} files stay{lowered}"
            return f"{rule_criterion(fact.criterion)}: {files}."
        case reason.Considered():
            models, files = counted(fact.models, f"{fact.model_kind} model"), counted(fact.files, "file")
            return f"Considered {models} in {files}, each on up to {counted(fact.threads, 'thread')}."
        case reason.SourcesReached():
            return _sources(fact)
        case reason.SourceSilent():
            return f"Source {fact.scheme} does not answer: {fact.error}."
        case reason.NoRoom():
            return _no_room(fact)
        case reason.RulesUnasked():
            return _rules_unasked(fact)


def _no_room(fact: reason.NoRoom) -> str:
    needed = f"fetching it needs {show_size(fact.needed_bytes)} in {fact.folder}"
    free = f"of which {show_size(fact.spare_bytes)} stay free; {show_size(fact.free_bytes)} are free"
    other = f"free space, or set {fact.setting} to a folder on another disk"
    if fact.limit_bytes is not None:
        asks = f"`{option('max_download', f'{fact.limit_bytes // 10**6}MB')}`"
        other = f"{asks} chooses {fact.instead} {fact.instead_quant}, which has room; or {other}"
    return f"No room for {fact.model} {fact.quant}: {needed}, {free}. To go on: {other}."


def _rules_unasked(fact: reason.RulesUnasked) -> str:
    what = f"Plugin {fact.plugin} failed: {' '.join(fact.error.split())}"
    risk = "Selection rules that it may bring were not asked, so a model that they would drop may be chosen"
    return f"{what}. {risk}. Mend it or uninstall {fact.distribution.partition(' ')[0]}; `edgellm plugins` tells more."


def second_best(decision: Decision) -> str:
    """For who did not ask for reasons: what would be chosen, and why another model runs; "" = it is the best."""
    wish, choice = decision.would_choose, decision.choice
    if wish is None or choice is None:
        return ""
    silent = [fact.error for fact in decision.reasons if isinstance(fact, reason.SourceSilent)]
    why = "; ".join(silent) or "offline was asked for"
    best = f"{choice.model} {choice.quant} is the best that can be had now"
    return f"{wish.model} {wish.quant} would be chosen, but {why}. {best}."


def _sources(fact: reason.SourcesReached) -> str:
    name = f"{fact.model} {fact.quant}"
    answering = "offline" if fact.offline else f"reachable: {', '.join(fact.reachable) or 'none'}"
    if not fact.files:
        return f"Sources ({answering}): no file can be had; {name} would be chosen."
    if fact.best_can_be_had:
        return f"Sources ({answering}): the best choice can be had."
    files = counted(fact.files, "file")
    return f"Sources ({answering}): {files} can be had; {name} would be chosen if all answered."


def trained_length(card: ModelCard) -> str:
    """`"trained for 4,096 tokens"`."""
    return f"trained for {card.ctx_train:,} tokens" if card.ctx_train else "trained for a length that is not known"
