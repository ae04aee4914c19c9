"""What a worker may allocate: files of a model can make native code take whatever there is.

Pages of the mapped model do not count, so most plans leave room for as much again. docs/adr/083 has the numbers.
"""

from __future__ import annotations

from edgellm.contract.data_limit import limit_data
from edgellm.types.plan import LaunchPlan, Settings

# Beyond what the plan allowed: a tokenizer at its bounds takes 1 GiB, 8 grammars up to 1.
MARGIN_BYTES = 2 * 1024**3
PREDICTED_TIMES = 1.25
THREAD_BYTES = 8 * 1024**2  # a stack, touched or not


def limit_memory(*plans: LaunchPlan) -> None:
    """Of this process, which runs these plans: what they allowed and a margin, but no more than is available; what they
    predict in any case. Nothing where drivers of GPUs reserve memory as they like, and on other systems than Linux."""
    if any(on_device(plan.settings) for plan in plans):
        return
    import psutil

    available = psutil.virtual_memory().available
    allowed, predicted, n_threads = [available], 0.0, 0
    for plan in plans:
        if plan.may_use_bytes is not None:
            allowed.append(plan.may_use_bytes + MARGIN_BYTES)
        if plan.footprint is not None:
            predicted += PREDICTED_TIMES * plan.footprint.allocated_bytes
        n_threads += plan.settings.n_threads + plan.settings.n_threads_batch
    limit_data(max(min(allowed), round(predicted)) + n_threads * THREAD_BYTES)


def on_device(settings: Settings) -> bool:
    """Whether drivers of GPUs compute."""
    return bool(settings.gpu_layers or settings.devices)
