"""The golden rules, in the order they are applied: each takes what is left and returns what stays, and why.

    passed_its_check     what failed a quality check on this machine is dropped
    trained_context      a model is not asked for more context than it was trained for
    small_download       what must be fetched and is larger than the request allows is dropped
    fits_memory          what does not fit the budget is dropped
    coherent_bits        rule 2: never a 2- or 3-bit file unless nothing else fits
    usable_context       a model that leaves no room for a conversation is dropped
    reaches_floor        too slow for the task is dropped
    worth_its_bytes      rule 2: never a quantization that another one beats in size, speed and quality
    best_model           rule 1: the ability left after compression and the worth of its speed decide the model
    quant_for_size       rule 1: small models at Q5_K_M or better, large ones at Q4_K_M or IQ4_XS

Three of them (fits_memory, usable_context, reaches_floor) try smaller types of cache before they drop an option, and no
rule lowers the type for anything else. A plugin's rules (hook `register_rules`) have the same signature and run before
`best_model`.
"""

from __future__ import annotations

from edgellm.selection import choices, constraints
from edgellm.selection.rule_result import Rule

CONSTRAINTS: tuple[Rule, ...] = (
    constraints.passed_its_check,
    constraints.trained_context,
    constraints.small_download,
    constraints.fits_memory,
    constraints.coherent_bits,
    constraints.usable_context,
    constraints.reaches_floor,
    constraints.worth_its_bytes,
)
CHOICES: tuple[Rule, ...] = (choices.best_model, choices.quant_for_size)
