"""Answers one question: what libllama would reserve on devices for one batch of a plan. In a throwaway process only.

The model is loaded with `no_alloc`, which reads its header and no weights, and gets the context that the engine would
make: buffers are measured and not allocated. `llama_get_memory_breakdown` would tell more, but returns a C++ map; what
is logged of each buffer is the same number in MiB with two decimals.
"""

from __future__ import annotations

import re
import sys

import llama_cpp
import msgspec

from edgellm.contract.parent import connect
from edgellm.errors import BackendUnavailable, EdgeLLMError
from edgellm.types.plan import LaunchPlan
from edgellm.units import MIB
from edgellm_gguf.embedder import POOLING, embedding_params
from edgellm_gguf.loading import LOG, load, start
from edgellm_gguf.params import context_params, keep_flash_attention
from edgellm_gguf.plugin import checked_header
from edgellm_gguf.reservation import Reservation

_SCRATCH = re.compile(r"(\S+) +compute buffer size = +([\d.]+) MiB")


def scratch(plan: LaunchPlan, pooling: object = None) -> dict[str, int]:
    """Buffer type, which of a device is its name -> bytes. `pooling`: of an embedding model, as its header has it.

    Raises:
        BackendUnavailable: no context is made. Others: as `loading.load`.
    """
    run = plan.settings
    kind = POOLING.get(pooling) if isinstance(pooling, int) else None
    params = context_params(run) if kind is None else embedding_params(run, kind)
    LOG.start()
    start(with_devices=run.gpu_layers != 0)
    model = load(plan, no_alloc=True)
    keep_flash_attention(params, model, run.gpu_layers)
    LOG.start()
    context = llama_cpp.llama_init_from_model(model, params)
    if context is None:
        raise BackendUnavailable(f"llama.cpp makes no context{LOG.last()}")
    sizes: dict[str, int] = {}
    for name, mib in (match.groups() for line in LOG.facts if (match := _SCRATCH.search(line))):
        sizes[name] = sizes.get(name, 0) + round(float(mib) * MIB)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return sizes


def main() -> None:
    """The plan comes on standard input."""
    line, tell = connect()
    try:
        plan = msgspec.json.decode(line, type=LaunchPlan)
        pooling = checked_header(plan.artifact.path).of_architecture("pooling_type")
        tell(Reservation(scratch(plan, pooling)))
    except EdgeLLMError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
