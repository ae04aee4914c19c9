"""What is predicted of a load with layers on GPUs, to be compared with what it measured."""

from __future__ import annotations

import time

from edgellm.app.gpus import gpus_of
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.speed import REFERENCE_DEPTH
from edgellm.estimate.weights import Weights
from edgellm.formats.gguf.summary import summary_of
from edgellm.hardware import gpu_load
from edgellm.history.run_log import Numbers
from edgellm.runtime.metrics import MeasuredRates
from edgellm.selection import placement_speed
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.placed_by import placed_by
from edgellm.selection.placement import Placement
from edgellm.selection.placement_speed import Runner
from edgellm.selection.usable_gpu import usable_gpus
from edgellm.types.machine import Machine
from edgellm.types.plan import Footprint, LaunchPlan, Settings


def placement_of(plan: LaunchPlan, machine: Machine, facts: BackendFacts, weights: Weights | None) -> Placement | None:
    """Where the plan has the model; None where that is the processor, or how fast it is is not known.

    A GPU of which nothing is known is predicted as any: what it measures corrects that.
    """
    shape = plan.artifact.shape
    if not plan.settings.gpu_layers or shape is None or weights is None:
        return None
    gpus = usable_gpus(facts.offload, machine, gpus_of(machine), lambda identity: True, facts.priors.providers)
    memory = plan.footprint or Footprint(0, 0, 0, 0)
    has_file = plan.artifact.format == "gguf" and plan.artifact.paths  # a calibration has none
    own = summary_of(plan.artifact.path).layers if has_file else None
    layers = layers_of(shape, weights.total_bytes, plan.artifact.quant, own)
    placed = placed_by(plan.settings, shape, layers, gpus, memory)
    return placed if placed is not None and placed.is_rated else None


def busy_share(settings: Settings, facts: BackendFacts) -> float | None:
    """Of the second that comes, the share in which the busiest of these GPUs computes; None where nothing tells."""
    since = gpu_load.begin()
    time.sleep(gpu_load.SETTLES_S)
    devices = facts.offload.devices if facts.offload is not None else ()
    used = settings.devices
    return gpu_load.busiest({device.slot for device in devices if not used or device.name in used}, since)


def numbers(
    plan: LaunchPlan, machine: Machine, measured: MeasuredRates, facts: BackendFacts, weights: Weights | None
) -> Numbers:
    """Rates at the depth and for the prompts that were measured, before corrections. Of memory nothing: what a driver
    takes of RAM is not predicted."""
    run, shape = plan.settings, plan.artifact.shape
    placed = placement_of(plan, machine, facts, weights)
    if placed is None or shape is None or weights is None:
        return Numbers()
    # As selection has it (`Option.rated_cache`): unmeasured, a smaller cache is not taken to be faster.
    cache = run.kv_type if facts.calibration is not None or run.kv_type == "f32" else "f16"
    runner = Runner(machine, run.n_threads, facts.calibration, facts.priors, cache)
    depth = measured.decode_depth or REFERENCE_DEPTH
    decode = placement_speed.decode(placed, runner, shape, weights, depth)
    prefill = placement_speed.prefill(placed, shape, weights, tokens=measured.prefill_tokens or None)
    return Numbers(
        decode=None if decode is None else decode.tok_s,
        prefill=None if prefill is None else prefill.tok_s,
        first_token_s=measured.prefill_tokens / prefill.tok_s
        if prefill is not None and measured.prefill_tokens
        else None,
    )
