"""What a model must do before its replica answers anybody: golden prompts, and the speed of its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.errors import RuntimeFailure

if TYPE_CHECKING:
    from edgellm.sdk.client import EdgeLLM
    from edgellm_ray.config import ModelConfig

_PROMPT = "Say hello."
_TOKENS = 24  # of an answer whose speed is measured; its first are part of the reading of the prompt


class GateFailed(RuntimeFailure):
    """A fresh model does not do what it must, so that its replica does not answer."""


def check(llm: EdgeLLM, config: ModelConfig) -> None:
    """Ask the model; nothing is asked of one that writes no text.

    Raises:
        GateFailed: an answer is empty, lacks what it must contain, or came too slowly.
    """
    if not llm.info.generates:
        return
    answer = llm.chat(_PROMPT, temperature=0.0, max_tokens=_TOKENS)
    if not answer.text:
        raise GateFailed(f"{llm.plan.artifact.name} answers {_PROMPT!r} with nothing")
    for prompt, expected in config.golden:
        text = llm.chat(prompt, temperature=0.0, max_tokens=256).text
        if expected not in text:
            what = f"{llm.plan.artifact.name} answers {prompt[:60]!r} with {text[:80]!r}, without {expected[:60]!r}"
            raise GateFailed(what, hint="see to the golden prompts, or serve another model")
    choice = llm.decision and llm.decision.choice
    if choice and config.min_speed > 0 and answer.timings.decode_s > 0:
        rate = (answer.usage.completion_tokens - 1) / answer.timings.decode_s
        floor = config.min_speed * choice.decode.low
        if rate < floor:
            what = f"{llm.plan.artifact.name} writes {rate:.1f} tok/s here, and {floor:.1f} are asked for"
            raise GateFailed(what, hint="see what else runs there, or lower --min-speed")
