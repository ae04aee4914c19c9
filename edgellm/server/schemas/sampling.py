"""The fields of a body that say how tokens are drawn, and where an answer ends: OpenAI's and the extensions."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.server.schemas.fields import RequestBody, shortened
from edgellm.types.request import MAX_STOPS
from edgellm.types.sampling import MAX_BIASES, Sampling

_SAMPLING = Sampling.__struct_fields__


class SamplingBody(RequestBody, kw_only=True):
    """The fields themselves; bodies inherit them."""

    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Annotated[
        Annotated[dict[str, float], Meta(max_length=MAX_BIASES)] | None, Meta(description="Token id, as text, to bias.")
    ] = None
    seed: int | None = None
    top_k: Annotated[int | None, Meta(description="Extension. Keep the k most likely tokens; 0 = off.")] = None
    min_p: Annotated[
        float | None, Meta(description="Extension. Least probability, relative to the most likely token.")
    ] = None
    typical_p: Annotated[float | None, Meta(description="Extension. Locally typical sampling.")] = None
    repetition_penalty: Annotated[float | None, Meta(description="Extension. 1 = off.")] = None
    repeat_penalty: Annotated[float | None, Meta(description="Extension. repetition_penalty by another name.")] = None
    penalty_last_n: Annotated[
        int | None, Meta(description="Extension. Number of tokens that penalties look back over; -1 = all.")
    ] = None
    ignore_eos: Annotated[bool | None, Meta(description="Extension. Go on after the model ends its answer.")] = None

    def sampling(self) -> Sampling:
        values = {name: getattr(self, name) for name in _SAMPLING}
        values["repetition_penalty"] = self._penalty()
        values["logit_bias"] = tuple(_bias(token, bias) for token, bias in (self.logit_bias or {}).items())
        return Sampling(**{name: value for name, value in values.items() if value is not None})

    def _penalty(self) -> float | None:
        one, other = self.repetition_penalty, self.repeat_penalty
        if None not in (one, other) and one != other:
            what = f"repetition_penalty={one} and repeat_penalty={other} disagree"
            raise UsageError(what, hint="send one of them", param="repeat_penalty")
        return other if one is None else one

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def _bias(token: str, bias: float) -> tuple[int, float]:
    # "07" would mean the same token as "7".
    if not token.isascii() or not token.isdigit() or len(token) > 10 or (token[0] == "0" and token != "0"):
        raise UsageError(
            f"logit_bias has the key {shortened(token)}", hint='keys are token ids: {"42": -100}', param="logit_bias"
        )
    return int(token), bias
