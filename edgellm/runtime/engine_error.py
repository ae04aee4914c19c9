"""What an engine raises becomes a typed error that names its backend and the line; its traceback goes to the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edgellm.contract.answers import plugin_of
from edgellm.contract.failure import tidied, tidied_error, told
from edgellm.errors import BackendError, BackendUnavailable, EdgeLLMError, UsageError

if TYPE_CHECKING:
    from edgellm.contract.engine import Engine
    from edgellm.types.adapter import AdapterSet

log = logging.getLogger("edgellm.runtime.engine")


def engine_error(backend: str, error: BaseException) -> EdgeLLMError:
    """`error` itself where it was raised on purpose. `backend`: its name, "" = not known."""
    if isinstance(error, EdgeLLMError):
        return tidied_error(error)
    who = named(backend)
    if isinstance(error, MemoryError):
        return BackendUnavailable(
            f"{who} needs more memory for this than the model may take",
            hint="ask for less at a time; if little takes as much, the model file is at fault",
        )
    _log(who, error)
    plugin = plugin_of(backend, unknown="the backend")
    if _is_nonsense(error):
        return BackendError(
            f"{who} failed: {tidied(error)}",
            hint="the model's file may be damaged: fetch it again, or compare its hash with the publisher's; "
            f"if it is whole, {plugin} is at fault",
        )
    return BackendError(
        f"{who} failed: {told(error)}",
        hint=f"{plugin} or the model file is at fault; the worker's log has the traceback (EDGELLM_LOG=DEBUG)",
    )


def of_adapters(
    backend: str, adapters: AdapterSet, error: BaseException, *, are_asked: bool
) -> UsageError | BackendError | None:
    """Where a request is answered with adapters, logits that are no numbers count as their doing; and as its own, where
    it chose them (`are_asked`). An engine may be at fault all the same, so the log has them, too."""
    if not adapters or not _is_nonsense(error):
        return None
    _log(named(backend), error)
    listed = ", ".join(f"{name} (scale {scale:g})" for name, scale in adapters)
    what = f"with {listed} the model computes no numbers"
    hint = "lower the scale, or leave the adapter out: what it adds is too large for the model"
    return UsageError(what, hint=hint, param="adapters") if are_asked else BackendError(what, hint=hint)


def _is_nonsense(error: BaseException) -> bool:
    """Whether logits were no numbers."""
    from edgellm.text.sampling import NoNumbers  # numpy: the parent, which imports this module, does without

    return isinstance(error, NoNumbers)


def _log(who: str, error: BaseException) -> None:
    log.warning("%s failed", who, exc_info=error)


def close_engine(backend: str, engine: Engine) -> None:
    """What it raises is one line of the log: nobody waits for anything of it any more."""
    try:
        engine.close()
    except BaseException as error:  # sys.exit(), too
        log.error("%s failed while it was closed: %s", named(backend), told(error))


def with_plugin(backend: str) -> str:
    """For hints: `"the odd backend of plugin mine (edgellm-mine 0.3)"`."""
    whose = plugin_of(backend, unknown="")
    return f"{named(backend)} of {whose}" if whose else named(backend)


def named(backend: str) -> str:
    return f"the {backend} backend" if backend else "the engine"
