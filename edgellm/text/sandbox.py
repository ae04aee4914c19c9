"""A Jinja environment for templates that strangers wrote: immutable, sandboxed, and bounded in time and memory.

Jinja's sandbox keeps a template from Python's internals. It does not keep it from endless loops or from asking for a
terabyte. That is done here, by rewriting the parsed template so that every loop turn, comparison, concatenation, slice
and new container goes through the budget, and by allowing only callables and filters that are known.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, pass_context
from jinja2.visitor import NodeTransformer

from edgellm.text import extent, filters
from edgellm.text.budget import Each, current

_CALL_STEPS = 20  # a call costs as much as about 20 loop turns
_MAX_BITS = 4096  # of an integer
_MAX_ARGUMENT = 10_000_000  # integer arguments of calls; Jinja's own range stops at 100,000

# What a template may call on a text or a container. `format join replace` are replaced by bounded ones; of those that
# take a width, `filters.check_integers` bounds it.
_WIDTH_METHODS = frozenset({"center", "ljust", "rjust", "zfill"})
_BOUNDED_METHODS = frozenset({"format", "join", "replace", "split", "splitlines"})
# Python compares each place of the text with all of the argument; forwards it is cleverer.
_PRODUCT_METHODS = frozenset({"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"})
TEXT_METHODS = _WIDTH_METHODS | _BOUNDED_METHODS | _PRODUCT_METHODS | {
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "partition", "removeprefix",
    "removesuffix", "startswith", "swapcase", "title", "upper",
}  # fmt: skip
_PARTING_METHODS = frozenset({"partition", "rpartition", "rsplit", "split", "splitlines"})
_CONTAINER_METHODS = frozenset({"copy", "count", "get", "index", "items", "keys", "values"})
_CALLABLE_TYPES = (Macro, LoopContext, BlockReference, Joiner, Undefined)


class RaisedByTemplate(TemplateError):
    """Raised by `raise_exception` in a template: the model was not made for such a conversation."""


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the model said; for rendering it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Extent(Extension):
    """Ends a source that has too many tokens."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        return extent.counted(stream)


class Sandbox(ImmutableSandboxedEnvironment):
    """Only usable inside `budget.spending`. Filters are those of `filters.allowed`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=["jinja2.ext.loopcontrols", Generation, Extent],
        )
        # With the context, so that Jinja cannot compute an output while it compiles.
        self.finalize = pass_context(lambda context, value: current().text(value))
        self.concat = _concat  # type: ignore[method-assign]
        self.filters = filters.allowed() | {name: _internal(apply) for name, apply in _INTERNAL.items()}
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: _charged_test(holds) for name, holds in tests.items()}
        self.globals = {
            name: value for name, value in self.globals.items() if name in {"range", "cycler", "joiner", "namespace"}
        } | {"dict": filters.make_dict}

    def build(self, source: str, name: str) -> Any:
        """The template, rewritten and compiled.

        Raises:
            OverBudget: it is too large. TemplateError, SyntaxError, RecursionError, MemoryError: it cannot be.
        """
        tree = _Rewriter().visit(self.parse(source, name, name))
        extent.check_branches(tree)
        tree.set_environment(self)
        code = self.compile(tree, name, name)
        return self.template_class.from_code(self, code, self.make_globals(None))

    def is_safe_callable(self, obj: Any) -> bool:
        """Known kinds only: macros, loops, the globals, and harmless methods of texts and containers."""
        if isinstance(obj, _CALLABLE_TYPES) or any(obj is builtin for builtin in self.globals.values()):
            return True
        if isinstance(obj, types.FunctionType):
            return getattr(obj, "edgellm_safe", False) is True
        if not isinstance(obj, types.BuiltinMethodType | types.MethodType):
            return False
        owner = obj.__self__
        if isinstance(owner, str):
            return obj.__name__ in TEXT_METHODS
        if isinstance(owner, dict | list | tuple):
            return obj.__name__ in _CONTAINER_METHODS
        return isinstance(owner, LoopContext | Cycler) and obj.__name__ in {"cycle", "changed", "next", "reset"}

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.tick(_CALL_STEPS)
        # Inside a loop Jinja adds its own two arguments, and takes them away before the callable sees them.
        keywords = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
        for argument in (*args, *keywords.values()):
            if isinstance(argument, list | tuple | dict):
                budget.measure(argument)
            elif isinstance(argument, int):
                filters.check_integers([argument], _MAX_ARGUMENT)
        owner = __obj.__self__ if isinstance(__obj, types.BuiltinMethodType | types.MethodType) else None
        if isinstance(owner, str) and __self.is_safe_callable(__obj):
            return filters.settle(_call_text(str(owner), __obj, args, keywords))
        if isinstance(__obj, LoopContext):
            args = (Each(args[0]), *args[1:]) if args else args
        return filters.settle(super().call(__context, __obj, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        current().read(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        current().tick()
        _BINOP_CHECKS.get(operator, _no_check)(left, right)
        if operator == "%" and isinstance(left, str):
            return filters.settle(filters.percent(left, right))
        return filters.settle(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, checked before the sandbox's own formatter runs; `format_map` is refused."""
        formatter = super().wrap_str_format(value)
        if formatter is None:
            return None
        pattern, is_map = str(value.__self__), value.__name__ == "format_map"

        def checked(*args: Any, **kwargs: Any) -> str:
            if is_map:
                raise SecurityError("format_map is not available in chat templates")
            filters.check_format(pattern, [*args, *kwargs.values()])
            return str(formatter(*args, **kwargs))

        checked.edgellm_safe = True  # type: ignore[attr-defined]
        return checked


class _Rewriter(NodeTransformer):
    """Sends loops, comparisons, concatenations, slices and new containers through filters that charge the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_each", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _through("_read", node.expr)
        for operand in node.ops:
            operand.expr = _through("_read", operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _through("_cut", node.node, [bound or nodes.Const(None, lineno=node.lineno) for bound in bounds])

    def visit_container(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _through("_made", node)

    visit_List = visit_Tuple = visit_Dict = visit_container

    def refuse(self, node: nodes.Node) -> NoReturn:
        what = type(node).__name__.lower()
        raise TemplateSyntaxError(f"a chat template is one text: {what} is not available", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_Block = refuse


def _through(name: str, node: Any, arguments: list[nodes.Expr] | None = None) -> nodes.Filter:
    return nodes.Filter(node, name, arguments or [], [], None, None, lineno=node.lineno)


def _internal(apply: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def charged(context: Context, *args: Any) -> Any:
        current().tick()
        return apply(*args)

    return charged


def _charged_test(holds: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(holds)  # and what Jinja notes on it
    def charged(*args: Any) -> Any:
        for value in args:
            current().read(value)
        return holds(*args)

    return charged


def _read(value: Any) -> Any:
    current().read(value)
    return value


def _made(container: Any) -> Any:
    current().measure(container)
    return container


def _joined(pieces: list[Any]) -> Any:
    return filters.settle(filters.join(pieces))


def _cut(value: Any, start: Any, stop: Any, step: Any) -> Any:
    return filters.settle(value[start:stop:step])


def _concat(pieces: Iterable[str]) -> str:
    """In place of `"".join`, wherever a macro, a block or a `set` gathers its output."""
    texts = list(pieces)
    current().tick(len(texts))
    current().make(sum(map(len, texts)))
    return "".join(texts)


_INTERNAL: dict[str, Callable[..., Any]] = {
    "_each": Each,
    "_concat": _joined,
    "_cut": _cut,
    "_made": _made,
    "_read": _read,
}


def _call_text(owner: str, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if method.__name__ == "replace":
        return filters.replace(owner, *args, **kwargs)
    if method.__name__ == "join":
        return filters.join(args[0] if args else (), owner)
    if method.__name__ in _WIDTH_METHODS:
        filters.check_integers(args)
    if method.__name__ in _PRODUCT_METHODS:
        filters.charge_product(owner, (*args, *kwargs.values()))
    if method.__name__ in _PARTING_METHODS:
        current().copy(owner)
    if method.__name__ in ("split", "rsplit"):
        return filters.split(method, *args, **kwargs)
    if method.__name__ == "splitlines":
        filters.check_lines(owner)
    return method(*args, **kwargs)


def _no_check(left: Any, right: Any) -> None:
    return None


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _MAX_BITS:
        raise SecurityError("a power of this size is not available in chat templates")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise SecurityError("an integer of this size is not available in chat templates")
        return
    for repeated, times in ((left, right), (right, left)):
        if isinstance(repeated, str | list | tuple) and isinstance(times, int):
            if isinstance(repeated, str):
                current().make(len(repeated) * max(0, times))
            else:
                current().tick(len(repeated) * max(0, times))


def _check_sum(left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        current().make(len(left) + len(right))


_BINOP_CHECKS: dict[str, Callable[[Any, Any], None]] = {"+": _check_sum, "*": _check_product, "**": _check_power}
