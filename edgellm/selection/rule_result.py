"""What a rule says of the options that are left: which stay, and what each of the others failed on."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import TypeVar

from msgspec import Struct

from edgellm.contract.failure import is_of_user, tidied, tidied_error, told
from edgellm.contract.field_types import in_plain_types, mistyped
from edgellm.contract.left_threads import noted
from edgellm.contract.slow import told_where_slow
from edgellm.errors import BackendError, EdgeLLMError
from edgellm.selection.option import Option
from edgellm.selection.scenario import Scenario
from edgellm.types.criterion import Criterion, Stated
from edgellm.types.plan import Rejection
from edgellm.types.reason import FilesKept, Reason
from edgellm.types.refusal import EvenTheSmallest, Refusal, RuleRefusal

FactT = TypeVar("FactT")


class RuleResult(Struct, frozen=True):
    kept: tuple[Option, ...]  # an option may be replaced by the same with a smaller cache (`Option.lower`)
    rejected: tuple[tuple[Option, RuleRefusal | Stated], ...] = ()  # with the numbers it failed on
    reason: Reason | None = None  # what the rule did; None = nothing


Rule = Callable[[Sequence[Option], Scenario], RuleResult]


@dataclass(frozen=True)
class PluginRule:
    """A plugin's rule whose mistakes are typed errors that name the plugin. It is not left out: something that it drops
    might be chosen then.

    Attributes:
        plugin: the name of its entry point.
        distribution: name and version of the package that brings it.
    """

    rule: Rule
    plugin: str
    distribution: str

    @property
    def __name__(self) -> str:
        return self.rule.__name__

    @property
    def told(self) -> str:
        return f"rule {self.__name__} of plugin {self.plugin} ({self.distribution})"

    @property
    def hint(self) -> str:
        package = self.distribution.partition(" ")[0]
        return f"`pip uninstall {package}`, or EDGELLM_PLUGINS with the names of the others, goes on without its rules"

    def __call__(self, options: Sequence[Option], scenario: Scenario) -> RuleResult:
        try:
            with told_where_slow(self.told), noted(lambda: f"plugin {self.plugin} ({self.distribution})"):
                result: object = self.rule(options, scenario)
            if not isinstance(result, RuleResult):
                problem = f" returned {reprlib.repr(result)}, a RuleResult is expected"
            elif problem := _wrong(result, options):
                problem = f": {problem}"
            else:
                dropped = tuple((option, _tidied(why)) for option, why in result.rejected)
                return RuleResult(tuple(result.kept), dropped, _tidied(result.reason))
        except EdgeLLMError as error:
            raise tidied_error(error) from None
        except BaseException as error:  # sys.exit() in a rule must not end a command as if it were done
            if is_of_user(error):
                raise
            raise BackendError(f"{self.told} failed: {told(error)}", hint=self.hint) from error
        raise BackendError(f"{self.told}{problem}", hint=self.hint)


def _tidied(fact: FactT) -> FactT:
    """With its texts as people can read them."""
    tidy: FactT = in_plain_types(fact, tidied)
    return tidy


def _wrong(result: RuleResult, options: Sequence[Option]) -> str:
    """What in it is not as it must be; msgspec checks no types of what is made in Python. "" = nothing."""
    for verb, some in (("keeps", result.kept), ("rejects", result.rejected)):
        if not isinstance(some, tuple | list):
            return f"what it {verb} is {reprlib.repr(some)}, a tuple is expected"
    if not all(isinstance(option, Option) for option in result.kept):
        return "what it keeps must be options"
    for pair in result.rejected:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], Option):
            return "what it rejects must be pairs of an option and a reason"
        if problem := _unfit(pair[1], RuleRefusal | Stated):
            return f"the reason of a rejected option is {problem}"
    if problem := _unfit(result.reason, Reason | None):
        return f"its reason is {problem}"
    return _miscounted(result, options)


def _unfit(fact: object, kinds: UnionType) -> str:
    problem = mistyped(fact) if isinstance(fact, kinds) else "Stated(...) is expected"
    return f"{fact!r:.60}, {problem}" if problem else ""


def _miscounted(result: RuleResult, options: Sequence[Option]) -> str:
    """Whether each option that there was is kept or rejected, and once; with a smaller cache it is the same one."""
    dropped = [o for o, _ in result.rejected]
    given, kept, rejected = (Counter(map(_file_of, some)) for some in (options, result.kept, dropped))
    if strange := next((file for file in (*kept, *rejected) if file not in given), None):
        return f"it has {_named(strange)}, which was not among its options"
    if twice := next(iter(kept - given), None):
        return f"it keeps {_named(twice)} twice"
    as_kept = {(_file_of(o), o.kv_type) for o in result.kept}
    both = (file for o in dropped if ((file := _file_of(o)), o.kv_type) in as_kept)
    if torn := next((file for file in both if kept[file] + rejected[file] > given[file]), None):
        return f"it keeps and rejects {_named(torn)}"
    lost = (given - kept - rejected).total()
    return f"it drops {lost} of {len(options)} options without a reason" if lost else ""


def _file_of(o: Option) -> tuple[str, str, str, str]:
    return o.model, o.quant, o.file.source, o.backend


def _named(file: tuple[str, str, str, str]) -> str:
    model, quant, source, backend = file
    return f"{model} {quant} from {source} on {backend}"


Fails = Callable[[Option], RuleRefusal | Stated | None]


def split(options: Sequence[Option], fails: Fails, criterion: Criterion) -> RuleResult:
    """The options for which `fails` says nothing stay."""
    return lowering(options, fails, criterion, hopeless=lambda _option: True)


def lowering(
    options: Sequence[Option],
    fails: Fails,
    criterion: Criterion,
    *,
    hopeless: Callable[[Option], bool] = lambda _option: False,
) -> RuleResult:
    """As `split`, but what fails is tried with smaller types of cache, one after the other, before it is dropped.

    `hopeless` says where no cache at all would help.
    """
    kept: list[Option] = []
    rejected: list[tuple[Option, RuleRefusal | Stated]] = []
    lowered = 0
    for option in options:
        o, refusal = option, fails(option)
        while refusal is not None and not hopeless(o) and o.lower is not None:
            rejected.append((o, refusal))
            o = o.lower
            refusal = fails(o)
        if refusal is not None:
            rejected.append((o, refusal))
        else:
            kept.append(o)
            lowered += o is not option
    if not rejected:
        return RuleResult(tuple(kept))
    return RuleResult(tuple(kept), tuple(rejected), FilesKept(criterion, len(kept), len(options), lowered))


def rejections(result: RuleResult, rule: str) -> list[Rejection]:
    """The result's rejections: one per model where the rule dropped all of it, else one per file and type of cache."""
    dropped: dict[str, list[tuple[Option, RuleRefusal | Stated]]] = {}
    for o, why in result.rejected:
        dropped.setdefault(o.card.id, []).append((o, why))
    kept = [o for o in result.kept if o.card.id in dropped]
    left = {o.model for o in kept}
    files = set(map(_file_of, kept))
    rows: list[Rejection] = []
    for model, items in dropped.items():
        if model not in left:
            # Of its smallest file, what was said of the smallest cache.
            closest, why = min(reversed(items), key=lambda item: (item[0].tensor_bytes, item[0].quant))
            alone = all(o.quant == closest.quant for o, _ in items)
            named: Refusal = why if alone or rule == "best_model" else EvenTheSmallest(closest.quant, why)
            rows.append(Rejection(model, "", rule, named))
            continue
        last = {_file_of(o): o for o, _ in items}
        for o, why in items:
            stays = _file_of(o) in files
            if stays or o is last[_file_of(o)]:
                rows.append(Rejection(model, o.quant, rule, why, o.kv_type if stays else ""))
    return rows
