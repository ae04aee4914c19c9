"""What plugins answer, checked: the core asks a backend's methods through `answer`, and a source's through `asked`.

A backend that raises, or answers something else than the contract says, has that as its error in `edgellm plugins`.
It is left out where one of several is chosen, and is a typed error where it was named.
"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING, Any, TypeVar

from edgellm.contract import manager
from edgellm.contract.failure import told
from edgellm.contract.slow import told_where_slow
from edgellm.errors import BackendError, EdgeLLMError

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, Settings

T = TypeVar("T")
MOST_SHOWN = 400  # characters of one value

HINT = "this is for the author of the plugin, which `edgellm plugins` names; EDGELLM_PLUGINS can leave it out"


class Fault(Exception):
    """What a plugin did against the contract, in words."""


def asked(what: str, ask: Callable[[], T], fits: Callable[[T], bool], expected: str) -> T:
    """What `ask` returns, where it `fits`. Errors that are raised on purpose pass.

    Raises:
        Fault: it raised another exception, or what it returned is not what is expected.
    """
    try:
        given = ask()
    except (EdgeLLMError, KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a plugin that calls sys.exit() must not end every command
        if isinstance(error, SystemExit):
            from edgellm.contract import child  # 4 ms, which `edgellm --help` can do without

            if child.is_ending():
                raise
        raise Fault(f"{what} failed: {told(error)}") from error
    from edgellm.contract.field_types import mistyped  # as above

    # A field of another type would be an error of whoever reads it, far from here.
    try:
        problem = mistyped(given)
    except Exception as error:  # of a collection that holds itself, or of one of the plugin's own
        raise Fault(f"{what} gives {kind_of(given)}, which cannot be read: {told(error)}") from error
    if problem:
        raise Fault(f"{what} gives {_shown(given)}, in which {problem}")
    try:
        is_right = fits(given)
    except (TypeError, AttributeError, ValueError):  # it has not even the members that are looked at
        is_right = False
    if not is_right:
        raise Fault(f"{what} gives {_shown(given)}, {expected} is expected")
    return given


def _shown(given: object) -> str:
    """The value itself in a line, so that what is wrong in a thing of the right kind is seen."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = MOST_SHOWN
    try:
        if isinstance(given, Mapping):  # what `worker_environment` gives is nobody's to read
            given = {key: type(value) for key, value in given.items()}
        return " ".join(cut.repr(given).split())
    except KeyboardInterrupt:
        raise
    except BaseException:  # a class of the plugin's may raise here, too
        return kind_of(given)


def kind_of(given: object) -> str:
    """A short value as it is, of others what they are: `7`, `a list of PosixPath`."""
    if given is None or isinstance(given, (str, int, float)):
        return f"{given!r:.80}"
    kinds = sorted({type(item).__name__ for item in given}) if isinstance(given, (list, tuple)) else []
    return f"a {type(given).__name__}{' of ' * bool(kinds)}{', '.join(kinds)}"


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
        with told_where_slow(f"backend {backend.name}: {member}()") if is_method else contextlib.nullcontext():
            return asked(f"{member}()" if is_method else member, ask, fits, expected)
    except Fault as fault:
        manager.plugins().blame(backend.name, str(fault))
        raise BackendError(f"backend {backend.name}: {fault}", hint=HINT) from fault


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


_ATTRIBUTES = ("kv_types", "worker_environment")
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "check": ("a list of texts", _texts),
    "supports": ("a list of texts", _texts),
    "footprint": ("a Footprint or None", _or_none(_kind("edgellm.types.plan", "Footprint"))),
    "describe": ("a dict of texts", _mapping),
    "scratch": ("a dict of devices to bytes", _bytes_by_name),
    "offload": ("an Offload", _kind("edgellm.contract.backend", "Offload")),
    "accelerators": ("an Offload or None", _or_none(_kind("edgellm.contract.backend", "Offload"))),
    "kv_types": ("a set of names", _names),
    "architectures": ("a set of names or None", _or_none(_names)),
    "tensor_types": ("a set of names or None", _or_none(_names)),
    "repacking": ("a Repacking", _kind("edgellm.types.priors", "Repacking")),
    "recognizes": ("a text", lambda given: isinstance(given, str)),
    "inspect": ("a ModelFacts", _kind("edgellm.types.model", "ModelFacts")),
    "priors": ("a Priors", _kind("edgellm.types.priors", "Priors")),
    "unproven": ("a text", lambda given: isinstance(given, str)),
    "advise": ("a list of Advice", _list_of(_kind("edgellm.contract.backend", "Advice"))),
    "check_options": ("None", lambda given: given is None),
    "worker_environment": ("a dict of texts", _mapping),
    "build": ("a text", lambda given: isinstance(given, str)),
}
