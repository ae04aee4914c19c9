"""What judges a tuning: the model as it will be served answers held-out questions, and reads general text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgellm.adaptation import gate
from edgellm.adaptation.controls import with_shots
from edgellm.adaptation.worker import TuneStop
from edgellm.app.tune.run import TuneOutcome, to_serve
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.types.adapter import adapters_of
from edgellm.types.event import Delta
from edgellm.types.message import Message
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord
from edgellm.types.tuning_gate import Forgetting, Gate, OtherModel, PairedGain, ShuffledControl

if TYPE_CHECKING:
    from edgellm.app.tune.plan import TunePlan
    from edgellm.sdk.client import EdgeLLM

_MOST_ASKED = 200  # held-out questions: more would take longer than many tunings
_SPARE_TOKENS = 16  # of an answer, beyond what the example says
_MOST_READ = 512  # tokens of a piece of general text
_GREEDY = Sampling(temperature=0)
_Untuned = tuple[list[str], list[str], int]  # answers, those with examples in the prompt, how many examples
_Losses = dict[int, tuple[float, int]]  # by piece: nats, and tokens that have some
T = TypeVar("T")


@dataclass(frozen=True)
class GateQuestion:
    """`prompt`: of a text that is only continued, for a model without a template."""

    messages: tuple[Message, ...]
    answer: Message
    prompt: str = ""

    @property
    def wanted(self) -> str:
        return self.answer.content.strip()


def questions_of(records: Sequence[TrainingRecord]) -> list[GateQuestion]:
    """Conversations up to their last answer. Calls, and texts, are none."""
    return [question for record in records if (question := _question(record)) is not None]


def _question(record: TrainingRecord) -> GateQuestion | None:
    if isinstance(record, TrainingPair):
        *before, last = record.chat.messages
        return GateQuestion(tuple(before), last, record.prompt)
    if not isinstance(record, TrainingChat):
        return None
    *before, last = record.messages
    is_answer = last.role == "assistant" and not last.calls and len(record.messages) - 1 not in record.unlearned
    return GateQuestion(tuple(before), last) if is_answer and before and not record.tools else None


def judge_tuning(
    plan: TunePlan, outcome: TuneOutcome, control: TuneOutcome | None, stop: TuneStop, progress: Progress
) -> Gate | None:
    """All that is asked of the base and of what came of it. None where there is nothing to ask, or no time is left."""
    questions = questions_of(plan.test)[:_MOST_ASKED]
    if not questions and not plan.general:
        return None
    from edgellm.sdk.client import EdgeLLM

    judge = _Judge(questions, plan.general, stop, progress)
    with EdgeLLM(plan.served) as llm:
        zero_shot, few_shot, n_shots = judge.untuned(llm, plan.shots, "the base")
        general_before = judge.losses(llm, None, "the base")
    served, adapter = to_serve(plan, outcome)
    with EdgeLLM(served) as llm:
        tuned = judge.answers(llm, adapter, "asking the tuned model")
        general_after = judge.losses(llm, adapter, "the tuned model")
    other: _Untuned | None = None
    if plan.against is not None and questions:
        with EdgeLLM(plan.against) as llm:
            other = judge.untuned(llm, plan.shots, plan.against.artifact.name)
    shuffled: list[str] = []
    if control is not None:
        served, adapter = to_serve(plan, control)
        with EdgeLLM(served) as llm:
            shuffled = judge.answers(llm, adapter, "asking the control")
    truths = [question.wanted for question in questions]

    def gain(before: Sequence[str]) -> PairedGain | None:
        n = min(len(before), len(tuned))  # fewer where it was asked to end
        right = [[said == wanted for said, wanted in zip(of, truths, strict=False)][:n] for of in (before, tuned)]
        return gate.accuracy_gain(*right) if n else None

    def against() -> OtherModel | None:
        zero = gain(other[0]) if other is not None else None
        if plan.against is None or other is None or zero is None:
            return None
        return OtherModel(plan.against.artifact.name, zero, gain(other[1]), other[2])

    return Gate(
        zero_shot=gain(zero_shot),
        few_shot=gain(few_shot),
        n_shots=n_shots,
        shuffled=judge_control(plan, shuffled) if shuffled else None,
        over_shuffled=gain(shuffled),
        against=against(),
        forgetting=_forgetting(general_before, general_after),
    )


def judge_control(plan: TunePlan, answers: Sequence[str]) -> ShuffledControl:
    """`answers`: to the first held-out questions, by the model that learned shuffled ones."""
    truths, dealt = ([one.wanted for one in questions_of(of)[: len(answers)]] for of in (plan.test, plan.dealt))
    return gate.shuffled_control(answers, dealt, truths if plan.preview.classes else None)


def _forgetting(before: _Losses, after: _Losses) -> Forgetting | None:
    # Fewer where it was asked to end.
    both = [piece for piece in before if piece in after and before[piece][1] == after[piece][1]]
    if len(both) < 2:  # one piece has no interval
        return None
    first, second = ([of[piece][0] for piece in both] for of in (before, after))
    return gate.forgetting(first, second, [before[piece][1] for piece in both])


class _Judge:
    def __init__(
        self, questions: Sequence[GateQuestion], general: Sequence[str], stop: TuneStop, progress: Progress
    ) -> None:
        self._questions = questions
        self._general = general
        self._stop = stop
        self._progress = progress

    def untuned(self, llm: EdgeLLM, shots: Sequence[TrainingChat], who: str) -> _Untuned:
        zero_shot = self.answers(llm, None, f"asking {who}")
        fitting = _that_fit(llm, shots, self._questions)
        said = self.answers(llm, None, f"asking {who} with {len(fitting)} examples", fitting) if fitting else []
        return zero_shot, said, len(fitting) if said else 0

    def answers(self, llm: EdgeLLM, adapter: str | None, what: str, shots: Sequence[TrainingChat] = ()) -> list[str]:
        """One for each question, until it is asked to stop; "" where the model refuses it."""
        said: list[str] = []
        for question in self._while_wanted(self._questions, what):
            try:
                said.append(_answer(llm, question, adapter, shots))
            except UsageError:
                said.append("")
        return said

    def losses(self, llm: EdgeLLM, adapter: str | None, who: str) -> _Losses:
        """Of each piece of general text."""
        losses: _Losses = {}
        for number, piece in self._while_wanted(list(enumerate(self._general)), f"{who} reads general text"):
            losses[number] = _nats(llm, piece, adapter)
        return losses

    def _while_wanted(self, items: Sequence[T], what: str) -> Iterator[T]:
        for number, item in enumerate(items):
            if self._stop.asked:
                return
            self._progress(number, len(items), what)
            yield item


def _answer(llm: EdgeLLM, question: GateQuestion, adapter: str | None, shots: Sequence[TrainingChat]) -> str:
    """As greedy as the model is served."""
    thoughts = question.answer.reasoning
    most = len(llm.tokenize(question.wanted)) + _SPARE_TOKENS
    if llm.info.chat_template is None:
        request = GenerationRequest(question.prompt, max_tokens=most, sampling=_GREEDY, adapters=adapters_of(adapter))
        return "".join(event.text for event in llm.generate(request) if isinstance(event, Delta)).strip()
    most += len(llm.tokenize(thoughts)) + _SPARE_TOKENS if thoughts else 0
    messages = with_shots(question.messages, shots)
    said = llm.chat(messages, temperature=0, max_tokens=most, thinking=True if thoughts else None, adapters=adapter)
    return said.text.strip()


def _that_fit(llm: EdgeLLM, shots: Sequence[TrainingChat], questions: Sequence[GateQuestion]) -> Sequence[TrainingChat]:
    """As many as the context holds beside the longest question."""
    if not questions or not shots:
        return ()
    longest = max(questions, key=lambda question: sum(len(message.content) for message in question.messages))
    room = llm.info.n_ctx - len(llm.tokenize(longest.wanted)) - _SPARE_TOKENS
    while shots and llm.count_tokens(with_shots(longest.messages, shots)) > room:
        shots = shots[:-1]
    return shots


def _nats(llm: EdgeLLM, text: str, adapter: str | None) -> tuple[float, int]:
    """Of all its tokens but the first, before which there is nothing."""
    ids = llm.tokenize(text, add_bos=True)[: min(_MOST_READ, llm.info.n_ctx - 1)]
    request = GenerationRequest(tuple(ids), max_tokens=0, echo=True, top_logprobs=0, adapters=adapters_of(adapter))
    tokens = [token for event in llm.generate(request) if isinstance(event, Delta) for token in event.logprobs]
    return -sum(token.chosen.logprob for token in tokens[1:]), len(tokens) - 1
