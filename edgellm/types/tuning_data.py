"""Training data as it is read, and what was wrong with which line of it, as data."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from edgellm.types.message import Message, Tool


class TrainingChat(msgspec.Struct, frozen=True):
    """A conversation. What its assistant says is learned."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    unlearned: frozenset[int] = frozenset()  # places of an assistant's messages that are only read


class TrainingPair(msgspec.Struct, frozen=True):
    """A text and how it goes on, which is learned."""

    line: int
    prompt: str
    completion: str

    @property
    def chat(self) -> TrainingChat:
        """The same as a question and its answer."""
        return TrainingChat(self.line, (Message("user", self.prompt), Message("assistant", self.completion)))


class TrainingText(msgspec.Struct, frozen=True):
    """All of it is learned."""

    line: int
    text: str


TrainingRecord = TrainingChat | TrainingPair | TrainingText

# What keeps a line from being learned. `DataProblem.value` is what is told behind it.
Refused = Literal[
    "not_utf8",  # place of the byte
    "too_long",  # bytes
    "not_json",  # the reader's words
    "not_csv",  # the same; nothing behind it is read
    "not_an_object",  # what it is
    "no_form",  # its keys
    "preferences",  # its keys: of two answers the better one
    "wrong_type",  # what came; field
    "missing",  # field
    "bad_message",  # why; field
    "bad_tool",  # why; field
    "too_many",  # how many; field
    "no_answer",
    "empty_answer",  # field
    "empty_text",  # field
    "template_refused",  # why
    "not_tokenized",  # why: it is longer than any request
    "answer_changed",  # the template does not write what the assistant says; field
    "nothing_supervised",  # tokens before the first that would count
    "no_template",  # a conversation, and the model has no template
]
# What is learned, and worth to know.
Noted = Literal[
    "empty_turn",  # field
    "truncated",  # tokens
    "in_pieces",  # how many: each answer became an example of its own, or a long text was cut
    "end_added",  # the template writes no end of an answer
    "thought_left_out",  # field: the template writes no thoughts, or another one
]
REFUSED: frozenset[str] = frozenset(get_args(Refused))


class DataProblem(msgspec.Struct, frozen=True):
    line: int  # from 1 on
    kind: Refused | Noted
    field: str = ""  # "messages[2].content"
    value: str = ""  # shortened

    @property
    def refuses(self) -> bool:
        return self.kind in REFUSED


class DataReport(msgspec.Struct, frozen=True):
    """What became of a file of training data."""

    n_lines: int  # that hold something
    n_refused: int  # lines that are not learned
    problems: tuple[DataProblem, ...] = ()  # in the order of lines; at most MAX_PROBLEMS of them
    counts: dict[str, int] = {}  # by kind, of all
    ignored: tuple[str, ...] = ()  # fields that mean nothing here
    n_examples: int = 0
    n_tokens: int = 0
    n_supervised: int = 0
    longest: int = 0  # tokens of an example before it was cut


MAX_PROBLEMS = 1000
