"""Facts in words: one sentence for each kind of reason, refusal and basis. Every face, and every error, says it so.

`sentence` is for reasons, `refusal` for why something was not taken, `basis` for where a number comes from; `plain`
makes JSON of what holds such facts. The facts themselves: `edgellm.types.reason`, `.refusal`, `.basis`.
"""

from __future__ import annotations

from edgellm.explain.bases import basis
from edgellm.explain.choice import could_be_made
from edgellm.explain.plain import facts, plain
from edgellm.explain.plan import budget, gpu
from edgellm.explain.reasons import sentence
from edgellm.explain.refusals import problem, refusal

__all__ = ["basis", "budget", "could_be_made", "facts", "gpu", "plain", "problem", "refusal", "sentence"]
