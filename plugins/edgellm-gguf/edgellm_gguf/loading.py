"""Opens a model with llama.cpp, and turns what the library says of a failure into errors. In a worker only."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import llama_cpp

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact, option
from edgellm.types.plan import LaunchPlan
from edgellm_gguf import ggml
from edgellm_gguf.log import Log
from edgellm_gguf.params import keep_flash_attention, model_params
from edgellm_gguf.threadpool import ThreadPool
from edgellm_gguf.tokenizer import LlamaTokenizer

LOG = Log()


class LoadedModel:
    """The native objects of one model: its weights, a context, and the threads that compute it."""

    def __init__(self, plan: LaunchPlan, params: Any, n_threads: int, *, size: str, hint: str) -> None:
        """`params`: llama_context_params. `size` and `hint`: how to say that no context could be made.

        Raises:
            BackendUnavailable, BadArtifact, UnsupportedArtifact.
        """
        LOG.start()
        start(with_devices=plan.settings.gpu_layers != 0)
        self._model = self._ctx = self._threads = None
        try:
            self._model = load(plan)
            keep_flash_attention(params, self._model, plan.settings.gpu_layers)
            self._ctx = llama_cpp.llama_init_from_model(self._model, params)
            if self._ctx is None:
                raise BackendUnavailable(f"llama.cpp cannot make a context of {size} tokens{LOG.last()}", hint=hint)
            self._threads = ThreadPool(self._ctx, n_threads)
        except Exception:
            self.close()
            raise
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.tokenizer = LlamaTokenizer(self._vocab)

    def close(self) -> None:
        """Free context and model."""
        if self._ctx is not None:
            llama_cpp.llama_free(self._ctx)
            self._ctx = None
        if self._threads is not None:
            self._threads.close()
            self._threads = None
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
            self._model = None


def start(*, with_devices: bool) -> None:
    """
    Raises:
        BackendUnavailable: the library cannot compute here.
    """
    try:
        ggml.start(with_devices=with_devices)
    except RuntimeError as error:
        raise BackendUnavailable(str(error), hint="`edgellm doctor` says what the library was built for") from error


def system_info() -> str:
    """What the library was built with, for people."""
    text: bytes = llama_cpp.llama_print_system_info()
    return text.decode("utf-8", "replace").strip()


def load(plan: LaunchPlan, *, no_alloc: bool = False) -> object:
    """llama_model. `no_alloc`: without weights, to measure what a context would take.

    Raises:
        BackendUnavailable: no memory, or no GPU where layers are to go. BadArtifact, UnsupportedArtifact.
    """
    if plan.settings.gpu_layers and not llama_cpp.llama_supports_gpu_offload():
        raise BackendUnavailable(
            f"gpu_layers={plan.settings.gpu_layers} cannot be kept: this libllama sees no GPU{LOG.last()}",
            hint="`edgellm doctor` says what it was built for; gpu_layers=0 computes on the CPU",
        )
    params, paths = model_params(plan.settings, plan.artifact.shape), plan.artifact.paths
    if no_alloc:  # nothing is mapped then: the library refuses it
        params.no_alloc, params.load_mode = True, llama_cpp.LLAMA_LOAD_MODE_NONE
    if len(paths) == 1:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(paths[0]), params)
    else:
        array = (ctypes.c_char_p * len(paths))(*map(os.fsencode, paths))
        model = llama_cpp.llama_model_load_from_splits(array, len(paths), params)
    if model is None:
        why = LOG.last()
        if LOG.out_of_memory():
            raise BackendUnavailable(
                f"not enough memory to load {plan.artifact.path}{why}",
                hint=f"close other programs, take a smaller model or quantization, or fewer {option('gpu_layers')}",
            )
        error = UnsupportedArtifact if "unknown model architecture" in why or "unsupported" in why else BadArtifact
        raise error(
            f"llama.cpp cannot load {plan.artifact.path}{why}", hint="see `edgellm doctor` for the build in use"
        )
    return model
