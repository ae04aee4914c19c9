"""Why something was not taken, in words that follow its name: "needs 5.1 GiB with ..."."""

from __future__ import annotations

from edgellm.explain.choice import quant_criterion
from edgellm.explain.plan import layers, why_better
from edgellm.explain.reasons import sentence
from edgellm.types import refusal as refusals
from edgellm.types.criterion import Stated
from edgellm.types.reason import Reason
from edgellm.units import show_memory, show_rate, show_size


def refusal(why: refusals.Refusal) -> str:
    """Why a model or a file was not taken; its name goes before."""
    if isinstance(why, refusals.EvenTheSmallest):
        return f"even {why.quant}: {refusal(why.why)}"
    if isinstance(why, refusals.RefusedByRule):
        return f"{why.rule}: {_of_rule(why.why)}"
    if isinstance(why, refusals.CatalogRefusal):
        return _by_catalog(why)
    return _by_rule(why) if isinstance(why, refusals.RuleRefusal) else _by_backend(why)


def _of_rule(why: refusals.RuleRefusal | Stated | Reason | None) -> str:
    if why is None:
        return "keeps nothing"
    return refusal(why) if isinstance(why, refusals.RuleRefusal) else sentence(why)


def problem(why: refusals.Refusal) -> str:
    """The same where no name goes before."""
    return f"it {refusal(why)}" if isinstance(why, refusals.TrainedForLess) else refusal(why)


def _misfit(why: refusals.AdapterMisfit) -> str:
    match why.what:
        case "format":
            return f"is {why.has}, and the adapter {why.adapter} is of a {why.needs} model"
        case "file":
            return f"is not what the adapter {why.adapter} was made for: {why.needs}"
        case "architecture":
            return f"is of architecture {why.has}, the adapter {why.adapter} is for {why.needs}"
        case "matrix":
            return f"has {why.has}, the adapter {why.adapter} changes {why.needs}"


def _by_rule(why: refusals.RuleRefusal) -> str:
    match why:
        case refusals.ScoresLess():
            return f"scores {why.score:.1f} with its best file, {why.quant}; {why.best} scores {why.best_score:.1f}"
        case refusals.OtherQuantPreferred():
            return f"{why.quant} is preferred: {quant_criterion(why.why)}"
        case refusals.NeedsMemory():
            cached = f" in {why.kv_type}" if why.kv_type != "f16" else ""
            needed, budget = show_memory(why.needed_bytes), show_memory(why.budget_bytes)
            return f"needs {needed} with {why.ctx:,} tokens of context{cached}, {budget} may be used"
        case refusals.LargeDownload():
            return f"would fetch {show_size(why.download_bytes)}, {show_size(why.limit_bytes)} are allowed"
        case refusals.FewBits():
            return f"keeps {why.share:.0%} of its weights in under {why.bits} bits"
        case refusals.Dominated():
            return f"{why.quant} is no bigger, no slower and no worse"
        case refusals.TooSlow():
            thinks = f", {show_rate(why.answer_tok_s)} of them after it has thought" if why.thinking else ""
            cached = f" with a {why.kv_type} cache" if why.kv_type != "f16" else ""
            floor = show_rate(why.floor_tps)
            return f"{why.basis} {show_rate(why.tok_s)} tok/s{thinks}{cached}, the floor is {floor}"
        case refusals.TrainedForLess():
            needs = f"{why.task} needs {why.ctx:,}" if why.task else f"{why.ctx:,} are asked for"
            return f"was trained for {why.ctx_train:,} tokens, {needs}"
        case refusals.LayersDoNotFit():
            needed, usable = show_memory(why.needed_bytes), show_memory(why.usable_bytes)
            count = layers(why.layers, why.total)
            return f"{count} need {needed} on {why.devices}, {usable} usable; {why.fitting} fit"
        case refusals.WholeModelOnly():
            return f"{why.device} computes all {why.total} layers or none, {why.layers} are asked for"
        case refusals.OtherBackendPreferred():
            return f"{why.backend} is preferred to {why.other}: {why_better(why.why)}"
        case refusals.OtherFilePreferred():
            return f"the file of {why.source} is preferred"


def _by_catalog(why: refusals.CatalogRefusal) -> str:
    match why:
        case refusals.AdapterMisfit():
            return _misfit(why)
        case refusals.NoBackendOpens():
            return "; ".join(map(_by_backend, why.refusals))
        case refusals.SizeUnknown():
            return f"the size of {why.quant} follows no rule that is known, and none is published"
        case refusals.WrongKind():
            return f"is of kind {why.model_kind}"
        case refusals.ShapeUnknown():
            return "its shape is not known, so neither memory nor speed can be predicted"
        case refusals.NoFiles():
            return "no published file is known"
        case refusals.FileGone():
            return f"there is no file {why.path}"
        case refusals.SchemeUnknown():
            none = "its source has no scheme in lower case"
            unknown = f"no source has the scheme {why.scheme!r}" if why.scheme else none
            return f"{unknown}; there are {', '.join(why.known)}"
        case refusals.NoBackendRuns():
            broken = (f"{b.backend} cannot run it here: {', '.join(b.problems)}" for b in why.backends)
            return "; ".join(broken) or "no backend is installed that opens it"


def _by_backend(why: refusals.BackendRefusal) -> str:
    match why:
        case refusals.FormatNotOpened():
            return f"{why.backend} opens {', '.join(why.formats)}, not {why.format}"
        case refusals.NoKernels():
            return f"{why.backend} has no kernels for {why.quant}"
        case refusals.NotStockType():
            return f"{why.quant} is not a type of stock llama.cpp, which {why.backend} runs"
        case refusals.ArchNotLoaded():
            return f"this build of {why.backend} does not load architecture {why.arch}"
        case refusals.TensorTypeNotOpened():
            return f"this build of {why.backend} opens no {why.tensor_type} tensors"
        case refusals.CacheTypeNotHeld():
            return f"{why.backend} holds a cache in {', '.join(why.kv_types)}, not in {why.kv_type}"
        case refusals.CacheHeadSize():
            return f"a {why.kv_type} cache needs heads of a multiple of {why.block}, these have {why.head_dim}"
        case Stated():
            return why.text
