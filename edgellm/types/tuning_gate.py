"""Whether tuning helped, as numbers: each difference with its interval, and what follows from it."""

from __future__ import annotations

from typing import Literal

import msgspec

GateVerdict = Literal["better", "worse", "no_different"]


class PairedGain(msgspec.Struct, frozen=True):
    """The same held-out rows before and after. A gain above 0 is for the better, whatever is measured."""

    measure: Literal["accuracy", "loss"]  # shares of 1; nats per token
    n_rows: int
    before: float
    after: float
    gain: float
    low: float  # of the interval of the gain
    high: float
    level: float  # of confidence, 0.95
    p: float | None = None  # of accuracies: the exact test of McNemar

    @property
    def verdict(self) -> GateVerdict:
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no_different"


class ShuffledControl(msgspec.Struct, frozen=True):
    """Of a model that learned answers that were dealt out anew, asked for those that were dealt to held-out questions.

    Whatever it knows of the task, it can know those only where it has seen the questions.
    """

    n_rows: int
    accuracy: float
    chance: float  # of the same answers, had others been dealt
    low: float  # of the interval of chance
    high: float

    @property
    def leaks(self) -> bool:
        return self.accuracy > self.high


class Forgetting(msgspec.Struct, frozen=True):
    """General text before and after."""

    n_tokens: int
    before: float  # perplexity
    after: float
    low: float  # of the interval of after / before
    high: float
    allowed: float  # of after / before

    @property
    def forgets(self) -> bool:
        return self.low > self.allowed


class OtherModel(msgspec.Struct, frozen=True):
    """Another model, not tuned, on the same held-out rows: `before` is its share of right answers."""

    model: str
    zero_shot: PairedGain
    few_shot: PairedGain | None = None  # with examples in its prompt
    n_shots: int = 0


class Gate(msgspec.Struct, frozen=True):
    """All that was measured of a tuned model.

    `few_shot`: against the base with examples in the prompt. `over_shuffled`: against the model that learned shuffled
    answers, so what the right ones taught beyond the form of an answer.
    """

    zero_shot: PairedGain | None = None  # None = no held-out example is a question
    few_shot: PairedGain | None = None
    n_shots: int = 0
    shuffled: ShuffledControl | None = None
    over_shuffled: PairedGain | None = None
    against: OtherModel | None = None
    forgetting: Forgetting | None = None

    @property
    def verdict(self) -> GateVerdict | None:
        """Against the base as it is asked without tuning. None = no answers were compared.

        No gain is one that leaks, or that shuffled answers bring as well.
        """
        if self.zero_shot is None:
            return None
        is_gain = self.zero_shot.verdict == "better"
        leaks = self.shuffled is not None and self.shuffled.leaks
        if is_gain and (leaks or (self.over_shuffled is not None and self.over_shuffled.verdict != "better")):
            return "no_different"
        return self.zero_shot.verdict

    @property
    def figures(self) -> dict[str, float]:
        """By name, for the record of what was tuned."""
        figures: dict[str, float] = {}
        other = self.against
        for measure, gain in (
            ("accuracy", self.zero_shot),
            ("few_shot", self.few_shot),
            ("over_shuffled", self.over_shuffled),
            ("against", other and other.zero_shot),
            ("against_few_shot", other and other.few_shot),
        ):
            if gain is not None:
                names = ("before", "after", "low", "high", "n_rows")
                figures |= {f"{measure}_{name}": float(getattr(gain, name)) for name in names}
        if self.few_shot is not None:
            figures["few_shot_examples"] = float(self.n_shots)
        if self.shuffled is not None:
            control = ("accuracy", "chance", "low", "high")
            figures |= {f"shuffled_{name}": getattr(self.shuffled, name) for name in control}
        if self.forgetting is not None:
            text = ("before", "after", "low", "high")
            figures |= {f"general_{name}": getattr(self.forgetting, name) for name in text}
        return figures
