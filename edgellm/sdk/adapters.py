"""LoRA adapters of a loaded model: `EdgeLLM.add_adapter`, `remove_adapter` and `adapters`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm.runtime.session import Session
from edgellm.sdk.asking import aask_all, ask_all, in_thread, of_kind
from edgellm.sdk.deadline import Deadline
from edgellm.types.adapter import AdapterFile, AskedFile, DropAdapter, LoadAdapter, adapter_files
from edgellm.types.event import Adapters

if TYPE_CHECKING:
    from edgellm.types.plan import LaunchPlan

_adapters = of_kind(Adapters)


class AdapterMethods:
    """The methods of `EdgeLLM` that load and drop adapters. Thread-safe."""

    plan: LaunchPlan
    _session: Session

    @property
    def adapters(self) -> tuple[AdapterFile, ...]:
        """Those that are loaded. `chat(..., adapters="mail")` answers with the one of that name."""
        return self._session.adapters

    def add_adapter(self, file: AskedFile, name: str | None = None, *, timeout: float | None = None) -> AdapterFile:
        """Load a LoRA adapter beside the model, while it answers. A worker that crashes comes back with it.

        Args:
            file: a GGUF adapter of this model, or the name of one that is stored for it.
            name: what requests call it; None = the name of the file, without its ending.
            timeout: seconds within which it must be loaded.

        Raises:
            BadArtifact, UnsupportedArtifact: it is no adapter of this model; UsageError: the name is taken or none;
            BackendUnavailable: no memory; TimedOut: it is loaded later all the same, if it can be; WorkerCrashed.
        """
        adapter = self._checked(file, name)
        ask_all(self._session, [LoadAdapter(adapter)], _adapters, _to_load(timeout))
        return adapter

    async def aadd_adapter(
        self, file: AskedFile, name: str | None = None, *, timeout: float | None = None
    ) -> AdapterFile:
        """As `add_adapter`, for coroutines."""
        adapter = await in_thread(self._session, self._checked, file, name)
        await aask_all(self._session, [LoadAdapter(adapter)], _adapters, _to_load(timeout))
        return adapter

    def remove_adapter(self, name: str, *, timeout: float | None = None) -> None:
        """Drop a loaded adapter. Returns when the answers that use it have ended; new ones cannot use it meanwhile.

        Raises:
            UnknownAdapter: none of that name is loaded; TimedOut: it is dropped later; WorkerCrashed: it stays.
        """
        ask_all(self._session, [DropAdapter(name)], _adapters, _to_drop(timeout))

    async def aremove_adapter(self, name: str, *, timeout: float | None = None) -> None:
        """As `remove_adapter`, for coroutines."""
        await aask_all(self._session, [DropAdapter(name)], _adapters, _to_drop(timeout))

    def _checked(self, file: AskedFile, name: str | None) -> AdapterFile:
        from edgellm.app import adapters

        texts = adapter_files(file if name is None else {name: file})
        if len(texts) != 1:
            raise UsageError(f"{len(texts)} files are given", hint="give one", param="file")
        return adapters.for_model(adapters.asked(texts), self.plan.artifact, self.plan.backend)[0]


def _to_load(timeout: float | None) -> Deadline:
    late = "the adapter was not loaded within {} s, and will be loaded later"
    return Deadline(timeout, late=late, instead="`adapters` lists it once it is there")


def _to_drop(timeout: float | None) -> Deadline:
    late = "the adapter was still there after {} s, and will be dropped later"
    return Deadline(timeout, late=late, instead="`adapters` lists it until it is gone")
