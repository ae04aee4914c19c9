"""What is checked of an engine: all that the contract says when it opens, and the shape of its logits in each step.

A wrong number would show much later, as a request that hangs or as the worker's death, and nobody would blame the
plugin that gave it.
"""

from __future__ import annotations

import contextlib
import operator
import reprlib
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellm.contract.answers import kind_of, plugin_of
from edgellm.contract.engine import CAPABILITIES, Engine, EngineInfo, SlotInput, Tokenizer
from edgellm.contract.failure import tidied
from edgellm.contract.field_types import mistyped
from edgellm.contract.registration import unlike
from edgellm.errors import BackendError
from edgellm.runtime.engine_error import engine_error, named
from edgellm.types.checks import MAX_COUNT, of_plain_type

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.types.plan import LaunchPlan

_COUNTS = ("n_slots", "n_ctx", "max_batch_tokens", "max_logits")
# Least and most of the others; the worker tells its parent all of them in one frame (`wire.Ready`).
_RANGES = {
    "vocab_size": (1, 2**22),  # four times the largest known: each row of logits has as many numbers
    "n_embd": (0, MAX_COUNT), "rewind_tokens": (0, MAX_COUNT), "allocated_bytes": (0, 2**60),
}  # fmt: skip
_MOST_OF_FIELD = 8 * 1024**2  # characters or numbers: a vocabulary has a tenth of it


def _hint(backend: str, suite: str = "BackendContract") -> str:
    return f"this is for the author of {plugin_of(backend)}: edgellm.testing.{suite} tests it"


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
    except BaseException as error:  # sys.exit() too; Ctrl-C does not reach the thread or process that opens models
        raise engine_error(backend.name, error) from error
    if problem:
        with contextlib.suppress(Exception):  # it may lack that, too
            engine.close()
        raise BackendError(
            f"the engine of {named(backend.name)} is not what it must be: {problem}", hint=_hint(backend.name)
        )
    return engine


def wrong_engine(engine: Any) -> str:
    """What is not as the contract says; "" = nothing."""
    if problem := unlike(Engine, engine):
        return f"{type(engine).__name__}: {problem}"
    if problem := unlike(Tokenizer, engine.tokenizer):
        return f"tokenizer: {problem}"
    info = engine.info
    if not isinstance(info, EngineInfo):
        return f"info is {kind_of(info)}, an EngineInfo is expected"
    return _untellable(info) or _incapable(engine) or _idle(info) or _wrong_counts(info) or _wrong_ends(info)


def _incapable(engine: Engine) -> str:
    """Of what it says it can do, the first that it cannot. Who asks for it would read that the model cannot."""
    info = engine.info
    for name in sorted(info.capabilities):
        if name not in CAPABILITIES:
            return f"info.capabilities has {name!r:.80}, which is no capability: {', '.join(CAPABILITIES)} are"
        if problem := unlike(CAPABILITIES[name], engine):
            return f"info.capabilities has {name!r}, and {type(engine).__name__} cannot do it: {problem}"
    if "embed" in info.capabilities and (info.embedding is None or not info.n_embd):
        what = "embedding is None, an EmbeddingInfo" if info.embedding is None else "n_embd is 0, a vector's length"
        return f"info.capabilities has 'embed', and info.{what} is expected"
    return ""


def _idle(info: EngineInfo) -> str:
    if info.generates or info.capabilities & {"embed", "rerank"}:
        return ""
    return "info.generates is False, and info.capabilities has neither 'embed' nor 'rerank', so it does nothing"


def _untellable(info: EngineInfo) -> str:
    """The first field that cannot be told to the parent process, or that it would not take."""
    for name, hint in typing.get_type_hints(EngineInfo).items():
        value = getattr(info, name)
        if (extent := _extent(value)) > _MOST_OF_FIELD:
            return f"info.{name} has {extent:,} characters or items, {_MOST_OF_FIELD:,} at most are expected"
        try:
            msgspec.msgpack.decode(msgspec.msgpack.encode(value, enc_hook=of_plain_type), type=hint)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if problem := mistyped(info):
                return f"info.{problem}"
            return f"info.{name} is {kind_of(value)}, which cannot be told: {tidied(error)}"
    return ""


def _extent(value: object) -> int:
    """Characters and numbers in it, without making a copy."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_extent(key) + _extent(item) for key, item in value.items())
    return sum(map(_extent, value)) if isinstance(value, Collection) else 1


def _wrong_counts(info: EngineInfo) -> str:
    ranges = dict.fromkeys(_COUNTS, (1, MAX_COUNT)) | _RANGES
    for name, (least, most) in ranges.items():
        if (value := getattr(info, name)) is not None and not least <= value <= most:
            return f"info.{name} is {reprlib.repr(value)}, {least} to {most} is expected"
    for name in ("max_batch_tokens", "max_logits"):
        if info.generates and (value := getattr(info, name)) < info.n_slots:
            return f"info.{name} is {value}, each of {info.n_slots} slots needs one"
    return ""


def _wrong_ends(info: EngineInfo) -> str:
    beyond = [token for token in info.eos_ids if not 0 <= token < info.vocab_size]
    return f"info.eos_ids has {beyond[0]}, tokens are 0 to {info.vocab_size - 1}" if beyond else ""


def check_logits(backend: str, logits: Any, batch: Sequence[SlotInput], vocab_size: int) -> None:
    """In each step, so it compares shapes only.

    Raises:
        BackendError: these are not the logits that the batch asked for.
    """
    expected = [(entry.n_logits, vocab_size) for entry in batch if entry.n_logits]
    try:
        if len(logits) == len(expected) and [rows.shape for rows in logits] == expected:
            return  # of a generator, which has no length, nothing would be left for others
        gave = f"arrays of the shapes {[rows.shape for rows in logits]}"
    except (TypeError, AttributeError):
        gave = kind_of(logits)
    raise BackendError(
        f"a step of {named(backend)} gave {gave}, arrays of the shapes {expected} are expected", hint=_hint(backend)
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
        hint=_hint(backend),
    )


def check_tokens(backend: str, text: str, tokens: Any, vocab_size: int) -> list[int]:
    """What `encode` gave of a text, as Python's numbers.

    Raises:
        BackendError: these are no tokens of the model, or none where the text has letters or digits.
    """
    try:
        ids = list(map(operator.index, tokens))  # numpy has whole numbers of its own
    except TypeError:
        gave = kind_of(tokens)
    else:
        if not ids and any(map(str.isalnum, text)):
            gave = f"no tokens for a text of {len(text):,} characters"
        elif not ids or (min(ids) >= 0 and max(ids) < vocab_size):
            return ids
        else:
            beyond = next(token for token in ids if not 0 <= token < vocab_size)
            gave = f"token {reprlib.repr(beyond)}"
    raise BackendError(
        f"encode() of {named(backend)} gave {gave}, tokens from 0 to {vocab_size - 1} are expected", hint=_hint(backend)
    )


def check_pieces(backend: str, given: Any, vocab_size: int) -> tuple[list[bytes], frozenset[int]]:
    """
    Raises:
        BackendError: what `pieces` gave are not the bytes of tokens, and which of them are control tokens.
    """
    try:
        pieces, listed = given
        special = frozenset(map(operator.index, listed))
        is_pair = isinstance(pieces, list | tuple)
    except (TypeError, ValueError):
        is_pair = False
    gave = f"{len(pieces):,} pieces" if is_pair else kind_of(given)
    if is_pair:
        wrong = next((token for token, piece in enumerate(pieces) if not isinstance(piece, bytes)), None)
        beyond = [token for token in special if not 0 <= token < len(pieces)]
        if wrong is None and len(pieces) <= vocab_size and not beyond:
            return list(pieces), special
        if wrong is not None:
            gave += f", of which number {wrong} is {kind_of(pieces[wrong])}"
        elif beyond:
            gave += f", and has {min(beyond)} among the control tokens"
    raise BackendError(
        f"pieces() of {named(backend)} gave {gave}; a list of the bytes of each token ({vocab_size:,} at most) and the "
        "set of control tokens are expected",
        hint=_hint(backend),
    )


def check_vectors(backend: str, call: str, rows: Any, shape: tuple[int, ...]) -> None:
    """What `embed` or `rerank` gave, a row for each text.

    Raises:
        BackendError: it is another array, or its numbers are none.
    """
    import numpy as np

    if getattr(rows, "shape", None) != shape or rows.dtype.kind != "f":
        gave = f"{rows.dtype} of the shape {rows.shape}" if hasattr(rows, "dtype") else kind_of(rows)
        raise BackendError(
            f"{call}() of {named(backend)} gave {gave}, float32 of the shape {shape} is expected",
            hint=_hint(backend, "EmbedderContract"),
        )
    if n_wrong := int((~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)).sum()):
        raise BackendError(
            f"{call}() of {named(backend)} gave numbers that are not finite for {n_wrong} of {len(rows)} texts",
            hint="fetch the model's file again, it may be damaged; or "
            f"{plugin_of(backend, unknown='the backend')} is at fault",
        )


def check_text(backend: str, token: int, text: Any) -> str:
    """
    Raises:
        BackendError: what a template writes for a token is no text.
    """
    if isinstance(text, str):
        return text
    raise BackendError(f"text({token}) of {named(backend)} gave {kind_of(text)}, text is expected", hint=_hint(backend))


def check_piece(backend: str, token: int, piece: Any) -> bytes:
    """
    Raises:
        BackendError: what stands for a token is no bytes.
    """
    if isinstance(piece, bytes):
        return piece
    raise BackendError(
        f"token_bytes({token}) of {named(backend)} gave {kind_of(piece)}, bytes are expected", hint=_hint(backend)
    )
