"""What is checked of an engine: all that the contract says when it opens, and the shape of its logits in each step.

A wrong number would show much later, as a request that hangs or as the worker's death, and nobody would blame the
plugin that gave it.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgellm.contract.answers import kind_of
from edgellm.contract.engine import Engine, EngineInfo, SlotInput, Tokenizer
from edgellm.contract.registration import unlike
from edgellm.errors import BackendError
from edgellm.runtime.engine_error import engine_error, named

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.types.plan import LaunchPlan

_HINT = "this is for the author of the plugin (`edgellm plugins` names it): edgellm.testing.BackendContract tests it"
_COUNTS = ("n_slots", "n_ctx", "max_batch_tokens", "max_logits", "vocab_size")


def open_engine(backend: Backend, plan: LaunchPlan) -> Engine:
    """Load the model, and check what came.

    Raises:
        EdgeLLMError: what the backend raised, a BackendError where it was no error of ours or the engine is not as the
            contract says. MemoryError.
    """
    try:
        engine = backend.open(plan)
        problem = wrong_engine(engine)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise engine_error(backend.name, error) from error
    if problem:
        with contextlib.suppress(Exception):  # it may lack that, too
            engine.close()
        raise BackendError(f"the engine of {named(backend.name)} is not what it must be: {problem}", hint=_HINT)
    return engine


def wrong_engine(engine: Any) -> str:
    """What is not as the contract says; "" = nothing."""
    if problem := unlike(Engine, engine):
        return f"{type(engine).__name__}: {problem}"
    if problem := unlike(Tokenizer, engine.tokenizer):
        return f"tokenizer: {problem}"
    info = engine.info
    if not isinstance(info, EngineInfo):
        return f"info is {info!r}, an EngineInfo is expected"
    for name in _COUNTS:
        value = getattr(info, name)
        if not isinstance(value, int) or value < 1:
            return f"info.{name} is {value!r}, a whole number of 1 or more is expected"
    for name in ("max_batch_tokens", "max_logits"):
        if info.generates and (value := getattr(info, name)) < info.n_slots:
            return f"info.{name} is {value}, each of {info.n_slots} slots needs one"
    return _wrong_ends(info)


def _wrong_ends(info: EngineInfo) -> str:
    try:
        beyond = [token for token in info.eos_ids if not 0 <= token < info.vocab_size]
    except TypeError:
        return f"info.eos_ids is {info.eos_ids!r}, a set of token ids is expected"
    return f"info.eos_ids has {beyond[0]}, tokens are 0 to {info.vocab_size - 1}" if beyond else ""


def check_logits(backend: str, logits: Any, batch: Sequence[SlotInput], vocab_size: int) -> None:
    """In each step, so it compares shapes only.

    Raises:
        BackendError: these are not the logits that the batch asked for.
    """
    expected = [(entry.n_logits, vocab_size) for entry in batch if entry.n_logits]
    try:
        if [rows.shape for rows in logits] == expected:
            return
        gave = f"arrays of the shapes {[rows.shape for rows in logits]}"
    except (TypeError, AttributeError):
        gave = kind_of(logits)
    raise BackendError(
        f"a step of {named(backend)} gave {gave}, arrays of the shapes {expected} are expected", hint=_HINT
    )


def check_kept(backend: str, call: str, kept: Any, most: int) -> int:
    """What `truncate` or `fork` gave: tokens that the slot holds now.

    Raises:
        BackendError: it is no number of tokens, or more than were asked for.
    """
    with contextlib.suppress(TypeError):  # numpy has whole numbers of its own
        if 0 <= (n_kept := operator.index(kept)) <= most:
            return n_kept
    raise BackendError(
        f"{call} of {named(backend)} gave {kind_of(kept)}, the tokens that are kept are expected, 0 to {most}",
        hint=_HINT,
    )


def check_piece(backend: str, token: int, piece: Any) -> bytes:
    """
    Raises:
        BackendError: what stands for a token is no bytes.
    """
    if isinstance(piece, bytes):
        return piece
    raise BackendError(f"token_bytes({token}) of {named(backend)} gave {piece!r}, bytes are expected", hint=_HINT)
