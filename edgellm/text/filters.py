"""The filters and text operations of a chat template: Jinja's own where they cannot amplify, bounded where they can.

A filter that is absent here is refused by name. Left out on purpose: `attr` (reaches for attributes), `batch center
groupby pprint random slice urlize wordwrap xmlattr` (they amplify, or have no use in a prompt).
"""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Environment
from jinja2 import filters as jinja
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import pass_context

from edgellm.text.budget import MAX_VALUES, Each, OverBudget, current

_FILTER_STEPS = 10  # a filter costs as much as about 10 loop turns
_MAX_ARGUMENT = 10_000  # a width, a count, an indent, a precision
_COMPARISONS = 256  # of characters cost as much as a loop turn
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_PERCENT = re.compile(r"%(?:\([^)]*\))?([^a-zA-Z%]*)[a-zA-Z]")
_LONG_NUMBER = re.compile(r"\d{5}|\*")


def settle(value: Any) -> Any:
    """Charge what a filter or a call returned: text by its length, containers by what they hold."""
    if isinstance(value, str):
        # Never a Markup, which would escape whatever is added to it.
        return current().keep(str(value))
    if isinstance(value, list | tuple | dict):
        current().measure(value)
    return value


def make_dict(pairs: Any = (), **named: Any) -> dict[Any, Any]:
    """In place of `dict`.

    Raises:
        SecurityError: a key is an integer so large that others can have its hash: each would be compared with each.
    """
    if isinstance(pairs, dict):
        return {**pairs, **named}
    listed = [tuple(pair) for pair in pairs]
    if not all(_hashes_alone(key) for key, _ in listed):
        raise SecurityError("an integer of this size is no key in chat templates")
    return {**dict(listed), **named}


def _hashes_alone(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_hashes_alone, key))
    return not isinstance(key, int | float) or abs(key) < sys.hash_info.modulus


def check_integers(arguments: Iterable[Any], limit: int = _MAX_ARGUMENT) -> None:
    """
    Raises:
        SecurityError: an integer argument beyond `limit`.
    """
    for value in arguments:
        if isinstance(value, int) and abs(value) > limit:
            raise SecurityError(f"an integer argument is out of range: {limit} is allowed")


def charge_product(text: str, arguments: Iterable[Any]) -> None:
    """Call before each character of `text` is compared with each of a text among the arguments: nothing ends it."""
    longest = max((len(value) for value in arguments if isinstance(value, str)), default=0)
    current().tick(len(text) * longest // _COMPARISONS)


def split(method: Callable[..., list[str]], sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """`str.split` or `str.rsplit`, which makes no more parts than a list may have."""
    most = MAX_VALUES if maxsplit < 0 else min(maxsplit, MAX_VALUES)
    parts = method(sep, most)
    if len(parts) > MAX_VALUES:
        raise OverBudget(f"it splits a text into more than {MAX_VALUES} parts")
    return parts


def check_lines(text: str) -> None:
    """
    Raises:
        OverBudget: it has more lines than a list may have values.
    """
    if sum(map(text.count, _LINE_ENDS)) > MAX_VALUES:
        raise OverBudget(f"it splits a text into more than {MAX_VALUES} lines")


def replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Both `|replace` and `str.replace`; the length is known before the text is made."""
    source, old, new = (str(current().text(value)) for value in (text, old, new))
    occurrences = source.count(old)
    n = occurrences if count is None or count < 0 else min(count, occurrences)
    current().make(len(source) + n * max(0, len(new) - len(old)))
    return source.replace(old, new, n)


def join(parts: Iterable[Any], between: Any = "") -> str:
    """Both `|join` and `str.join`."""
    budget = current()
    between = budget.text(between)
    texts: list[str] = []
    length = 0
    for part in Each(parts):
        texts.append(str(budget.text(part)))
        length += len(texts[-1]) + len(between)
        budget.allow(length)
    return str(between).join(texts)


def percent(pattern: str, values: Any) -> str:
    """`pattern % values`, with no width over 9999 and none taken from the values.

    Raises:
        SecurityError: such a width.
    """
    # The expression looks for the end of a name from each of its beginnings.
    current().tick(pattern.count("%(") * len(pattern) // _COMPARISONS)
    specs = _PERCENT.findall(pattern)
    if any(_LONG_NUMBER.search(spec) for spec in specs):
        raise SecurityError("a format width is out of range")
    current().allow(len(pattern) + len(specs) * (_MAX_ARGUMENT + current().measure(values)))
    return str(str(pattern) % values)


def check_format(pattern: str, values: Iterable[Any]) -> None:
    """Refuse a `str.format` that could make more than the budget.

    Raises:
        SecurityError: a width over 9999, or one taken from the values. OverBudget.
    """
    field = _MAX_ARGUMENT + current().measure(list(values))
    length = len(pattern)
    for _, name, spec, _ in string.Formatter().parse(pattern):
        current().tick()
        if name is None:
            continue
        if "{" in (spec or "") or _LONG_NUMBER.search(spec or ""):
            raise SecurityError("a format width is out of range")
        length += field
        current().allow(length)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As transformers has it: plain JSON, no HTML escaping, characters beyond ASCII as they are."""
    check_integers([indent or 0], 16)
    current().measure(value)
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    # In pieces, because the indent grows with the depth and so the length is not known before.
    return join(encoder.iterencode(value))


def _from_json(text: Any) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none. OverBudget: it holds too many values.
    """
    source = str(current().text(text))
    current().copy(source)
    current().tick(len(source) // _COMPARISONS)
    if sum(map(source.count, ",[{")) > MAX_VALUES:
        raise OverBudget(f"it reads a text of more than {MAX_VALUES} values")
    return json.loads(source)


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = str(current().text(value))
    step = len(width) if isinstance(width, str) else width
    check_lines(text)
    current().make(len(text) + (text.count("\n") + 1) * step)
    return jinja.do_indent(text, width, first, blank)


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    """With the template's own `+`, so that summing lists is bounded as adding them is."""
    total = start
    for value in values:
        item = context.environment.getitem(value, attribute) if attribute is not None else value
        total = context.environment.call_binop(context, "+", total, item)  # type: ignore[attr-defined]
    return total


@pass_context
def _join(context: Context, values: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        values = map(jinja.make_attrgetter(context.environment, attribute), values)
    return join(values, d)


def _trim(text: str, chars: str | None = None) -> str:
    charge_product(text, [chars])
    return text.strip(chars)


def _wordwise(apply: Callable[[str], Any]) -> Callable[[str], Any]:
    """For a filter that makes a list of all words."""

    def charged(text: str) -> Any:
        current().tick(4 * len(text))
        return apply(text)

    return charged


def _letterwise(apply: Callable[..., Any]) -> Callable[..., Any]:
    """For a filter that looks at each value at once, and of a text at each character."""

    def charged(environment: Environment, values: Any, *args: Any, **named: Any) -> Any:
        if isinstance(values, str):
            current().tick(len(values))
        return apply(environment, values, *args, **named)

    return charged


def _list(values: Any) -> list[Any]:
    if isinstance(values, str):
        current().tick(len(values))
    return list(values)


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    # A long hexadecimal number is converted without Python's limit on digits.
    return default if isinstance(value, str) and len(value) > 100 else jinja.do_int(value, default, base)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    check_integers([precision], 100)
    return jinja.do_round(value, precision, method)


_TEXT_FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": jinja.do_capitalize, "e": jinja.FILTERS["e"], "escape": jinja.FILTERS["escape"],
    "lower": jinja.do_lower, "safe": str, "string": str, "title": _wordwise(jinja.do_title), "trim": _trim,
    "upper": jinja.do_upper, "wordcount": _wordwise(jinja.do_wordcount),
}  # fmt: skip
_PLAIN_FILTERS: dict[str, Callable[..., Any]] = {
    "abs": abs, "count": len, "d": jinja.do_default, "default": jinja.do_default, "dictsort": jinja.do_dictsort,
    "float": jinja.do_float, "from_json": _from_json,
    "format": lambda value, *args, **named: percent(current().text(value), named or args),
    "indent": _indent, "int": _int, "items": jinja.do_items, "length": len, "list": _list, "replace": replace,
    "reverse": jinja.do_reverse, "round": _round, "tojson": to_json,
}  # fmt: skip
_CONTEXT_FILTERS: dict[str, Callable[..., Any]] = {
    "join": _join, "map": jinja.sync_do_map, "reject": jinja.sync_do_reject, "rejectattr": jinja.sync_do_rejectattr,
    "select": jinja.sync_do_select, "selectattr": jinja.sync_do_selectattr, "sum": _sum,
}  # fmt: skip
_ENVIRONMENT_FILTERS: dict[str, Callable[..., Any]] = {
    "first": jinja.sync_do_first, "last": jinja.do_last, "max": _letterwise(jinja.do_max),
    "min": _letterwise(jinja.do_min), "sort": _letterwise(jinja.do_sort),
    "truncate": jinja.do_truncate, "unique": jinja.do_unique,
}  # fmt: skip


def _guarded(apply: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that ticks, bounds its integers, iterates under the budget, and settles what it returns.

    It takes the context because Jinja evaluates filters without one while it compiles.
    """

    @pass_context
    def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        current().tick(_FILTER_STEPS)
        check_integers((*args, *kwargs.values()))
        if hasattr(value, "__next__"):
            value = Each(value)
        elif isinstance(value, list | tuple):
            current().tick(len(value))
        return settle(apply(context, value, *args, **kwargs))

    return guarded


def allowed() -> dict[str, Callable[..., Any]]:
    """Name -> filter, for `Environment.filters`."""
    by_name: dict[str, Callable[..., Any]] = {}
    for filters, adapt in (
        (_TEXT_FILTERS, _on_text),
        (_PLAIN_FILTERS, _on_value),
        (_CONTEXT_FILTERS, _with_context),
        (_ENVIRONMENT_FILTERS, _with_environment),
    ):
        by_name |= {name: _guarded(adapt(apply)) for name, apply in filters.items()}
    return by_name


def _on_text(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, value, *args, **named: apply(str(current().text(value)), *args, **named)


def _on_value(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, value, *args, **named: apply(value, *args, **named)


def _with_context(apply: Callable[..., Any]) -> Callable[..., Any]:
    return apply


def _with_environment(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda context, value, *args, **named: apply(context.environment, value, *args, **named)
