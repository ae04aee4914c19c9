"""Which LoRA adapters a running model has: loaded on request, and dropped when no answer uses them any more."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgellm.contract.engine import AdapterLoader
from edgellm.errors import BadArtifact, EdgeLLMError, UnknownAdapter, UnsupportedArtifact, UsageError
from edgellm.files import at_once
from edgellm.runtime import wire
from edgellm.runtime.engine_check import open_engine
from edgellm.runtime.engine_error import engine_error, named
from edgellm.types.adapter import AdapterFile, AdapterSet, DropAdapter, LoadAdapter
from edgellm.types.event import Adapters

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.contract.engine import Engine
    from edgellm.types.plan import LaunchPlan

_log = logging.getLogger("edgellm.runtime.adapters")


class AdapterShelf:
    """For the thread that owns the engine. `backend`: the name that errors give the engine."""

    def __init__(self, engine: Engine, backend: str = "", used: AdapterSet = ()) -> None:
        """`used`: by requests that leave it open."""
        self._engine = engine
        self.used = used
        self._backend = backend
        self._files: dict[str, AdapterFile] = {}
        self._leaving: dict[str, list[int]] = {}  # by name, the requests to drop it that wait for an answer

    @property
    def loaded(self) -> tuple[AdapterFile, ...]:
        return tuple(self._files.values())

    def fill(self, files: Sequence[AdapterFile], *, again: bool) -> None:
        """Load those of a plan. `again`: the model served with them before, so it serves without one that is gone or
        another file by now.

        Raises:
            EdgeLLMError: one cannot be loaded.
        """
        for file in files:
            try:
                if again:
                    _require_same(file)
                self._load(file)
            except EdgeLLMError as error:
                if not again:
                    raise
                _log.error("the adapter %s is not there any more: %s", file.name, error.message)

    def check(self, adapters: AdapterSet) -> None:
        """
        Raises:
            UnknownAdapter: one is not loaded, or is about to be dropped.
        """
        for name, _ in adapters:
            if name not in self._files or name in self._leaving:
                there = ", ".join(other for other in self._files if other not in self._leaving)
                hint = f"there are: {there}" if there else "none is loaded"
                raise UnknownAdapter(f"no adapter {name} is loaded", hint=hint, adapter=name)

    def submit(self, request_id: int, request: LoadAdapter | DropAdapter) -> list[wire.Reply]:
        """The answer, which a request to drop one may have to wait for (`settle`)."""
        try:
            if isinstance(request, LoadAdapter):
                self._load(request.file)
                return [wire.Reply(request_id, Adapters(self.loaded))]
            if request.name not in self._leaving:
                self.check(((request.name, 1.0),))
            self._leaving.setdefault(request.name, []).append(request_id)
        except Exception as error:
            return [wire.Reply(request_id, wire.Failed.of(engine_error(self._backend, error)))]
        return []

    def settle(self, is_used: Callable[[str], bool], forget: Callable[[str], Sequence[int]]) -> list[wire.Reply]:
        """Drop those that are to go and that no request uses any more; `forget` gives the slots that hold some of it.

        Returns:
            The answers to the requests to drop them.
        """
        replies = []
        for name in [name for name in self._leaving if not is_used(name)]:
            request_ids = self._leaving.pop(name)
            for slot in forget(name):
                self._engine.truncate(slot, 0)
            del self._files[name]
            assert isinstance(self._engine, AdapterLoader)
            self._engine.drop_adapter(name)
            replies += [wire.Reply(request_id, Adapters(self.loaded)) for request_id in request_ids]
        return replies

    def _load(self, file: AdapterFile) -> None:
        """
        Raises:
            UsageError: there is one of that name. UnsupportedArtifact: this engine takes none. What the engine raises.
        """
        if file.name in self._files:
            hint = "remove it first, or give the other one another name"
            raise UsageError(f"the adapter {file.name} is loaded already", hint=hint, param="adapters")
        if "adapters" not in self._engine.info.capabilities or not isinstance(self._engine, AdapterLoader):
            raise UnsupportedArtifact(
                f"{named(self._backend)} computes with no adapters of this model",
                hint="gguf and bitnet do, for models that write text; or merge the adapter into the model",
            )
        try:
            self._engine.load_adapter(file.name, file.path)
        except Exception as error:
            raise engine_error(self._backend, error) from error
        self._files[file.name] = file


def _require_same(file: AdapterFile) -> None:
    """Answers are told to be those of the file that was looked at first.

    Raises:
        BadArtifact: it is missing, or has other bytes than then.
    """
    try:
        with open(file.path, "rb", opener=at_once) as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{file.path} cannot be read: {error.strerror}", hint="add the adapter again") from None
    if file.sha256 not in ("", sha256):
        message = f"{file.path} has sha256 {sha256[:16]}, and had {file.sha256[:16]} when it was loaded first"
        raise BadArtifact(message, hint="remove the adapter and add it again, if that is the right file")


def open_with_adapters(backend: Backend, plan: LaunchPlan, *, again: bool = False) -> tuple[Engine, AdapterShelf]:
    """Load the model and the plan's adapters. `again`: see `AdapterShelf.fill`.

    Raises:
        As `open_engine` and `AdapterShelf.fill`.
    """
    engine = open_engine(backend, plan)
    shelf = AdapterShelf(engine, plan.backend, plan.answers_with)
    try:
        shelf.fill(plan.adapters, again=again)
    except BaseException:
        with contextlib.suppress(Exception):
            engine.close()
        raise
    return engine, shelf
