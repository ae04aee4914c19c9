"""What a tuned model is compared with: the base with examples in the prompt, and a model that learned nonsense."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from edgellm.adaptation.split import answer_of, text_of
from edgellm.types.message import Message
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord, TrainingText

USUAL_SHOTS, MOST_SHOTS = 4, 16


def shuffled(records: Sequence[TrainingRecord], seed: int = 0) -> list[TrainingRecord]:
    """The same records, with their last answers dealt out anew. Texts, which have none, and calls stay.

    Equal questions get equal answers, in whatever part of the data they are: who learned one of them knows the other.
    Each answer goes as often to the questions of one class as to those of another, so a class tells nothing.
    """
    questions: dict[bytes, list[int]] = {}
    for at, record in enumerate(records):
        if answer_of(record):
            questions.setdefault(_question(record), []).append(at)
    places = list(questions.values())
    answers = [answer_of(records[same[0]]) for same in places]
    mixed = _order(range(len(places)), seed)
    counts = Counter(answers[at] for at in mixed)
    dealt = list(records)
    for receiver, answer in zip(sorted(mixed, key=answers.__getitem__), _evenly(counts), strict=True):
        for at in places[receiver]:
            dealt[at] = _answered(records[at], answer)
    return dealt


def _evenly(counts: Mapping[str, int]) -> list[str]:
    """Each label as often as it counts; of any stretch of them it has about the share that it has of all."""
    spread = [
        ((number + (rank + 0.5) / len(counts)) / n, label)
        for rank, (label, n) in enumerate(counts.items())
        for number in range(n)
    ]
    return [label for _, label in sorted(spread)]


def _question(record: TrainingRecord) -> bytes:
    """What comes before the last answer, whatever the form."""
    chat = record.chat if isinstance(record, TrainingPair) else record
    assert isinstance(chat, TrainingChat)
    last = max(at for at, message in enumerate(chat.messages) if message.role == "assistant")
    return msgspec.json.encode((chat.messages[:last], chat.tools))


def usual_shots(classes: Mapping[str, int] | None) -> int:
    """How many examples a prompt gets: one of each class, within bounds."""
    return min(MOST_SHOTS, max(USUAL_SHOTS, len(classes or ())))


def _answered(record: TrainingRecord, answer: str) -> TrainingRecord:
    if not isinstance(record, TrainingChat):
        assert not isinstance(record, TrainingText)
        return msgspec.structs.replace(record, completion=answer)
    messages = list(record.messages)
    last = max(at for at, message in enumerate(messages) if message.role == "assistant")
    messages[last] = msgspec.structs.replace(messages[last], content=answer)
    return msgspec.structs.replace(record, messages=tuple(messages))


def shots(records: Sequence[TrainingRecord], n: int, seed: int = 0) -> list[TrainingChat]:
    """Examples for a prompt: questions with one answer, each class in its turn, the shorter half of them."""
    chats = [record.chat if isinstance(record, TrainingPair) else record for record in records]
    usable = [chat for chat in chats if isinstance(chat, TrainingChat) and _is_question(chat)]
    usable.sort(key=lambda record: len(text_of(record)))
    by_answer: defaultdict[str, list[TrainingChat]] = defaultdict(list)
    short = usable[: max(n, len(usable) // 2)]
    for at in _order(range(len(short)), seed):
        by_answer[answer_of(short[at])].append(short[at])
    rounds = range(max(map(len, by_answer.values()), default=0))
    return [record for turn in rounds for group in by_answer.values() for record in group[turn : turn + 1]][:n]


def _is_question(chat: TrainingChat) -> bool:
    roles = [message.role for message in chat.messages if message.role != "system"]
    return roles == ["user", "assistant"] and not chat.tools and bool(answer_of(chat))


def with_shots(messages: Sequence[Message], examples: Sequence[TrainingChat]) -> tuple[Message, ...]:
    """A request with examples behind its system text. Theirs is left out: it is the same in most sets."""
    first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    said = (message for chat in examples for message in chat.messages if message.role != "system")
    return (*messages[:first], *said, *messages[first:])


def _order(places: Sequence[int], seed: int) -> list[int]:
    return sorted(places, key=lambda place: hashlib.sha256(f"{seed} {place}".encode()).digest())
