"""What plugins answer, checked: the core asks a backend's methods through `answer`, and a source's through `asked`.

A backend that raises, or answers something else than the contract says, has that as its error in `edgellm plugins`.
It is left out where one of several is chosen, and is a typed error where it was named.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING, Any, TypeVar

from edgellm.contract import manager
from edgellm.contract.failure import is_of_user, tidied, tidied_error, told
from edgellm.contract.left_threads import noted
from edgellm.contract.slow import told_where_slow
from edgellm.errors import BackendError, EdgeLLMError

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, Settings

T = TypeVar("T")
MOST_SHOWN = 400  # characters of one value
MOST_OF_VARIABLE = 100_000  # characters of its name or value: Linux takes 128 KiB of both

HINT = "this is for the author of the plugin; EDGELLM_PLUGINS can leave it out"


class Fault(Exception):
    """What a plugin did against the contract, in words."""


def asked(
    what: str, ask: Callable[[], T], fits: Callable[[T], bool], expected: str, text: Callable[[str], str] = str.__str__
) -> T:
    """What `ask` returns, in Python's own types, where it `fits`. Errors that are raised on purpose pass.

    Args:
        text: what each text in it becomes.

    Raises:
        Fault: it raised another exception, or what it returned is not what is expected.
    """
    try:
        given = ask()
    except EdgeLLMError as error:
        tidied_error(error)
        raise
    except MemoryError:
        raise
    except BaseException as error:  # a plugin that calls sys.exit() must not end every command
        if is_of_user(error):
            raise
        raise Fault(f"{what} failed: {told(error)}") from error
    given = _read(what, given, text)
    try:
        is_right = fits(given)
    except BaseException as error:  # it has not even the members that are looked at
        if is_of_user(error):
            raise
        is_right = False
    if not is_right:
        raise Fault(f"{what} gives {_shown(given)}, {expected} is expected")
    return given


def _read(what: str, given: T, text: Callable[[str], str]) -> T:
    """The same in Python's own types, so that whoever reads it later runs no code of a plugin's class.

    Raises:
        Fault: a field is of another type, or a number that nothing has: the error of whoever reads it, far from here.
    """
    from edgellm.contract.field_types import in_plain_types, mistyped  # 4 ms, which `edgellm --help` can do without
    from edgellm.contract.ranges import out_of_range

    try:
        plain: T = in_plain_types(given, text)
        problem = mistyped(plain) or out_of_range(plain)
    except BaseException as error:  # of a collection that holds itself, or of one of the plugin's own
        if is_of_user(error):
            raise
        raise Fault(f"{what} gives {kind_of(given)}, which cannot be read: {told(error)}") from error
    if problem:
        raise Fault(f"{what} gives {_shown(plain)}, in which {problem}")
    return plain


def _shown(given: object) -> str:
    """The value itself in a line, so that what is wrong in a thing of the right kind is seen."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = MOST_SHOWN
    try:
        if isinstance(given, Mapping):  # what `worker_environment` gives is nobody's to read
            given = {key: type(value) for key, value in given.items()}
        return " ".join(cut.repr(given).split())
    except BaseException as error:  # a class of the plugin's may raise here, too
        if is_of_user(error):
            raise
        return kind_of(given)


def kind_of(given: object) -> str:
    """A short value as it is, of others what they are: `7`, `a list of PosixPath`. Runs no code of theirs."""
    kind = type(given)
    if kind in (type(None), bool, int, float, str, bytes):
        short = given[:80] if isinstance(given, (str, bytes)) else given
        with contextlib.suppress(ValueError):  # of a number with more digits than Python writes
            return f"{short!r:.80}"
    kinds = sorted({type(item).__name__ for item in given}) if kind in (list, tuple) else []  # type: ignore[attr-defined]
    return f"a {kind.__name__}{' of ' * bool(kinds)}{', '.join(kinds)}"


def answer(backend: Any, member: str, *things: Any, **named: Any) -> Any:
    """What the method (or attribute) of that name gives.

    Raises:
        BackendError: see `asked`. The plugin's row has it, too. Others: as the contract says of the method.
    """
    expected, fits = _EXPECTED[member]
    is_method = member not in _ATTRIBUTES

    def ask() -> Any:
        return getattr(backend, member)(*things, **named) if is_method else getattr(backend, member)

    try:
        slow = told_where_slow(f"backend {backend.name}: {member}()") if is_method else contextlib.nullcontext()
        with slow, threads_noted(backend.name):
            text = tidied if member in _FOR_PEOPLE else str.__str__
            return asked(f"{member}()" if is_method else member, ask, fits, expected, text)
    except Fault as fault:
        raise blamed(backend.name, fault) from fault


def blamed(backend: str, fault: Fault) -> BackendError:
    """The error of a backend's fault, which its plugin's row has, too."""
    manager.plugins().blame(backend, str(fault))
    return BackendError(f"backend {backend}: {fault}", hint=hint_for(backend))


def hint_for(name: object, hook: str = "register_backends") -> str:
    """What to do about a fault of the backend, or other thing, that was registered under that name."""
    return HINT.replace("the plugin", plugin_of(name, hook))


def threads_noted(name: object, hook: str = "register_backends") -> contextlib.AbstractContextManager[None]:
    """What was registered under that name is called in the block."""
    return noted(lambda: plugin_of(name, hook, unknown=f"{hook.removeprefix('register_').removesuffix('s')} {name}"))


def plugin_of(name: object, hook: str = "register_backends", *, unknown: str = "the plugin") -> str:
    """Who brings it: `"plugin mine (edgellm-mine 0.3)"`."""
    row = manager.plugins().owner(hook, name)
    return unknown if row is None else f"plugin {row.name} ({row.distribution})"


def check(backend: Backend, machine: Machine) -> list[str]:
    """Reasons it cannot run here; that it does not say them as it must is one."""
    return _reasons(backend, "check", machine)


def supports(backend: Backend, artifact: Artifact) -> list[str]:
    """Reasons it cannot open this; that it does not say them as it must is one."""
    return _reasons(backend, "supports", artifact)


def _reasons(backend: Backend, member: str, asked_of: object) -> list[str]:
    try:
        return list(answer(backend, member, asked_of))
    except EdgeLLMError as error:
        return [fault_in(error)]


def fault_in(error: EdgeLLMError) -> str:
    """What the backend did, without its name, of an error that `answer` raised; of others what they say."""
    return str(error.__cause__) if isinstance(error.__cause__, Fault) else error.message


def footprint(backend: Backend, artifact: Artifact, settings: Settings) -> Footprint | None:
    """
    Raises:
        BackendError: see `answer`. ArtifactError.
    """
    own: Footprint | None = answer(backend, "footprint", artifact, settings)
    return own


def describe(backend: Backend) -> dict[str, str]:
    """What it says of its build; where it does not, that: it is another build then."""
    try:
        return dict(answer(backend, "describe"))
    except EdgeLLMError as error:
        return {"describe": error.message}


def _kind(module: str, name: str) -> Callable[[object], bool]:
    """Is of a class that is imported when it is asked for."""

    def fits(given: object) -> bool:
        import importlib

        return isinstance(given, getattr(importlib.import_module(module), name))

    return fits


def _texts(given: object) -> bool:
    return isinstance(given, (list, tuple)) and all(isinstance(text, str) for text in given)


def _variables(given: object) -> bool:
    """Whether the system takes them for an environment. One that it cannot write is a ValueError."""
    return _mapping(given) and all(
        name and "=" not in name and max(len(name), len(value)) <= MOST_OF_VARIABLE
        and b"\0" not in os.fsencode(name + value)
        for name, value in given.items()  # type: ignore[attr-defined]
    )  # fmt: skip


def _names(given: object) -> bool:
    return isinstance(given, Set) and all(isinstance(name, str) for name in given)


def _mapping(given: object) -> bool:
    return isinstance(given, Mapping) and all(isinstance(text, str) for pair in given.items() for text in pair)


def _bytes_by_name(given: object) -> bool:
    return (
        isinstance(given, Mapping) and all(isinstance(n, int) and n >= 0 for n in given.values()) and _names({*given})
    )


def _list_of(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda given: isinstance(given, (list, tuple)) and all(map(fits, given))


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda given: given is None or fits(given)


def _cache_types(given: object) -> bool:
    from edgellm.types.request import KV_TYPES  # `edgellm --help` can do without

    return _names(given) and not {*KV_TYPES}.isdisjoint(given)  # type: ignore[arg-type]


_ATTRIBUTES = ("kv_types", "worker_environment")
# What these say is for people. That of others is compared, opened or handed on.
_FOR_PEOPLE = ("check", "supports", "describe", "offload", "accelerators", "unproven", "advise")
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "check": ("a list of texts", _texts),
    "supports": ("a list of texts", _texts),
    "footprint": ("a Footprint or None", _or_none(_kind("edgellm.types.plan", "Footprint"))),
    "describe": ("a dict of texts", _mapping),
    "scratch": ("a dict of devices to bytes", _bytes_by_name),
    "offload": ("an Offload", _kind("edgellm.contract.backend", "Offload")),
    "accelerators": ("an Offload or None", _or_none(_kind("edgellm.contract.backend", "Offload"))),
    "kv_types": ("a set with one or more of f32, f16, q8_0, q4_0", _cache_types),
    "architectures": ("a set of names or None", _or_none(_names)),
    "tensor_types": ("a set of names or None", _or_none(_names)),
    "repacking": ("a Repacking", _kind("edgellm.types.priors", "Repacking")),
    "recognizes": ("a text", lambda given: isinstance(given, str)),
    "inspect": ("a ModelFacts", _kind("edgellm.types.model", "ModelFacts")),
    "priors": ("a Priors", _kind("edgellm.types.priors", "Priors")),
    "unproven": ("a text", lambda given: isinstance(given, str)),
    "advise": ("a list of Advice", _list_of(_kind("edgellm.contract.backend", "Advice"))),
    "check_options": ("None", lambda given: given is None),
    "worker_environment": ("a dict of texts (no = in a name, no zero character, 100,000 in each at most)", _variables),
    "build": ("a text", lambda given: isinstance(given, str)),
}
