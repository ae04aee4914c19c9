"""Opens a model file with llama.cpp, and turns what the library says of a failure into errors. In a worker only."""

from __future__ import annotations

import ctypes
import os

import llama_cpp

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.types.plan import LaunchPlan
from edgellm_gguf.log import Log

LOG = Log()


def load(plan: LaunchPlan) -> object:
    """llama_model.

    Raises:
        BackendUnavailable: no memory, or no GPU where layers are to go. BadArtifact, UnsupportedArtifact.
    """
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = plan.settings.gpu_layers
    # An empty list: without it a build for a GPU computes long prompts there, with memory that nobody planned.
    nowhere = (ctypes.c_void_p * 1)(None)
    if plan.settings.gpu_layers == 0:
        params.devices = ctypes.addressof(nowhere)
    elif not llama_cpp.llama_supports_gpu_offload():
        raise BackendUnavailable(
            f"gpu_layers={plan.settings.gpu_layers} cannot be kept: this libllama sees no GPU",
            hint="`edgellm doctor` says what it was built for; gpu_layers=0 computes on the CPU",
        )
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if plan.settings.mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
    paths = plan.artifact.paths
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
                hint="close other programs, take a smaller model or quantization, or fewer --gpu-layers",
            )
        error = UnsupportedArtifact if "unknown model architecture" in why or "unsupported" in why else BadArtifact
        raise error(
            f"llama.cpp cannot load {plan.artifact.path}{why}", hint="see `edgellm doctor` for the build in use"
        )
    return model
