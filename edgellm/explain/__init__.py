"""Facts in words: one sentence for each kind of reason, refusal and basis. Every face, and every error, says it so.

`sentence` is for reasons, `refusal` for why something was not taken, `basis` for where a number comes from, `verdict`
for whether a model fits, `drift` for what was measured otherwise, `stored` for why a stored model is not used,
`drawn_by` for how answers are drawn, `unused_key` for what a file says of that in vain, `gpu_problem` for why a GPU is
not used or not known, `measured_beside` for what a calibration had beside it; `plain` makes JSON of what holds such
facts. The facts themselves: `edgellm.types.reason`, `.refusal`, `.basis`, `.verdict`, `.quantize_note`, `.drift`,
`.store_problem`, `.sampling_defaults`, `.gpu_problem`.
"""

from __future__ import annotations

from edgellm.explain.bases import basis
from edgellm.explain.choice import could_be_made, own_types, second_best, trained_length
from edgellm.explain.gpus import accelerator, gpu_facts, gpu_problem, gpu_remedy
from edgellm.explain.plain import facts, fields, plain
from edgellm.explain.plan import WHEN_QUIET, all_busy, budget, gpu, measured_beside, more_memory, short_context
from edgellm.explain.quantizing import quantized_twice
from edgellm.explain.reasons import sentence
from edgellm.explain.refusals import problem, refusal
from edgellm.explain.sampling import drawn_by, unused_key
from edgellm.explain.stored import stored, stored_remedy
from edgellm.explain.verdicts import drift, drift_remedy, verdict

__all__ = [
    "WHEN_QUIET", "accelerator", "all_busy", "basis", "budget", "could_be_made", "drawn_by", "drift",
    "drift_remedy", "facts", "fields", "gpu", "gpu_facts", "gpu_problem", "gpu_remedy", "measured_beside",
    "more_memory", "own_types", "plain", "problem", "quantized_twice", "refusal", "second_best", "sentence",
    "short_context", "stored", "stored_remedy", "trained_length", "unused_key", "verdict",
]  # fmt: skip
