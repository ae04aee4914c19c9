"""LoRA adapters of one model in llama.cpp. In a worker only.

A context computes with one set of them at a time: each change makes the library plan its buffers anew at the next step.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import llama_cpp

from edgellm.errors import BackendError, BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.adapter import check, read
from edgellm.formats.gguf.reader import GgufModel, read_model
from edgellm.types.adapter import AdapterSet
from edgellm_gguf.loading import LOG


class Loras:
    """The adapters that are loaded, and the set that the context computes with."""

    def __init__(self, model: object, context: object, model_path: str) -> None:
        self._model, self._context, self._model_path = model, context, model_path
        self._loaded: dict[str, Any] = {}
        self._used: AdapterSet = ()

    @functools.cached_property
    def _base(self) -> GgufModel:
        return read_model(self._model_path)

    def load(self, name: str, path: str) -> None:
        """Keep one in memory; its file is read once.

        Raises:
            BadArtifact, UnsupportedArtifact: it is no adapter of this model. BackendUnavailable: no memory.
        """
        # Refused here, in code that trusts no length, before native code sees the file.
        adapter = read(path, hashed=False)
        check(adapter, self._base)
        if adapter.invocation_tokens:
            raise UnsupportedArtifact(
                f"{path} acts from certain tokens on only (aLoRA)",
                hint="such adapters are not served yet: tune without invocation tokens",
            )
        LOG.complaints = []
        loaded = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not loaded:
            if LOG.out_of_memory():
                raise BackendUnavailable(
                    f"not enough memory for the adapter {path}{LOG.last()}", hint="remove another adapter first"
                )
            raise BadArtifact(
                f"llama.cpp cannot load the adapter {path}{LOG.last()}", hint="make it again from its checkpoint"
            )
        self._loaded[name] = loaded

    def drop(self, name: str) -> None:
        """Free one."""
        if any(name == used for used, _ in self._used):
            self.use(())
        llama_cpp.llama_adapter_lora_free(self._loaded.pop(name))

    def use(self, adapters: AdapterSet) -> None:
        """Compute with these from now on.

        Raises:
            BackendError: the library refuses them.
        """
        if adapters == self._used:
            return
        n = len(adapters)
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * n)(*(self._loaded[name] for name, _ in adapters))
        scales = (ctypes.c_float * n)(*(scale for _, scale in adapters))
        if status := llama_cpp.llama_set_adapters_lora(self._context, pointers, n, scales):
            raise BackendError(f"llama_set_adapters_lora returned {status}{LOG.last()}")
        self._used = adapters
