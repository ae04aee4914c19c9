"""What a served model is asked before an assistant's message, and what it would have to write to say the same.

The prompt is built as for a request. What follows it is what the template writes of the message: all behind the prompt,
where the template goes on from it. Where it does not, as it leaves out thoughts of the past, or opens a thought that it
does not write, the place where the answer begins is found with a probe. In any case the answer is read as that of a
request is, and must say what the message says.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.contract.engine import EngineInfo
from edgellm.text.prompt import ChatPrompt, PromptBuilder
from edgellm.text.readers import reader_of
from edgellm.text.readers.output import Part
from edgellm.types.message import Message
from edgellm.types.tuning_data import TrainingChat

_PROBE = "pl0answer"


class ChangedAnswer(Exception):
    """The template does not write what an assistant says, or in a way that is not read as that."""


@dataclass(frozen=True, slots=True)
class Answer:
    prompt: ChatPrompt
    text: str  # that follows it, with the text that ends it
    cuts: tuple[int, ...]  # places in `text` that no token spans
    end_added: bool  # the template ends no answers; this is the model's own end
    lacks_thought: bool = False  # the template does not write what was thought


class AnswerWriter:
    """For one model."""

    def __init__(self, info: EngineInfo, prompts: PromptBuilder, ends: Sequence[str]) -> None:
        """`ends`: texts of the tokens that end its answers, the first of them for templates that write none."""
        self._prompts = prompts
        self._ends = ends
        texts = sorted(filter(None, info.special_texts), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, texts)) or '(?!)'})")

    def answer(self, chat: TrainingChat, place: int) -> Answer:
        """That at `place` of the messages.

        Raises:
            BadTemplate: the template refuses the messages. ChangedAnswer. ContextOverflow, UsageError.
        """
        thinks = any(message.reasoning for message in chat.messages)
        before, message = chat.messages[:place], chat.messages[place]
        prompt = self._prompts.build(before, chat.tools, thinking=thinks)
        whole = self._build((*before, message), chat, thinks)
        tail = ""
        if whole.text.startswith(prompt.text):
            start = len(prompt.text)
        else:
            head, tail = self._around(before, message, chat, thinks)
            start = self._start(whole.text, head, prompt.opened, before)
        text, cuts = whole.text[start:], tuple(cut - start for cut in whole.cuts if cut > start)
        if opening := self._end_of_thought(prompt, message, text):
            text, cuts = opening + text, tuple(cut + len(opening) for cut in cuts)
        end = self._end(text, cuts)
        if not end:
            tail = tail or self._around(before, message, chat, thinks)[1]
            text = text.removesuffix(tail) if tail.strip() else text.rstrip()
            end = len(text)
        own_end = next((own for own in self._ends if text[:end].endswith(own)), "")
        if not own_end and not self._ends:
            raise ChangedAnswer("neither the template nor the model has an end of answers")
        body = text[:end].removesuffix(own_end)
        cuts = tuple(cut for cut in cuts if cut <= len(body))
        lacks_thought = self._read(prompt, body, cuts, chat, message)
        return Answer(prompt, body + (own_end or self._ends[0]), cuts, not own_end, lacks_thought)

    def _build(self, messages: Sequence[Message], chat: TrainingChat, thinks: bool) -> ChatPrompt:
        return self._prompts.build(messages, chat.tools, thinking=thinks, add_generation_prompt=False)

    def _around(self, before: Sequence[Message], message: Message, chat: TrainingChat, thinks: bool) -> tuple[str, str]:
        """What the template writes before an answer, or the thought before it, and behind it."""
        probe = Message("assistant", _PROBE, _PROBE if message.reasoning else "")
        text = self._build((*before, probe), chat, thinks).text
        if _PROBE not in text:
            raise ChangedAnswer("the template does not write answers")
        return text[: text.index(_PROBE)], text[text.rindex(_PROBE) + len(_PROBE) :]

    def _start(self, whole: str, head: str, opened: str, before: Sequence[Message]) -> int:
        """Where the answer begins in `whole`, which does not begin with the prompt."""
        at = head.rfind(opened) + len(opened) if opened and opened in head else len(head)
        if any(message.content.strip() and message.content in head[at:] for message in before):
            at = len(head)  # the template opens no second time, as behind the result of a tool
        if whole.startswith(head[:at]):
            return at
        pieces = (self._special.split(text) for text in (whole, head))
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*pieces, strict=False))
        return sum(len(piece) for piece, _ in same)

    def _end_of_thought(self, prompt: ChatPrompt, message: Message, text: str) -> str:
        """What ends the thought that the prompt opened, if neither the prompt nor the template's text does."""
        row = self._prompts.markup.reasoning
        if row is None or not row.open.strip():
            return ""
        mark, rest = prompt.opened.rpartition(row.open.strip())[1:]
        close = row.close.strip()
        return f"{message.reasoning}\n{close}\n\n" if mark and close not in rest and close not in text else ""

    def _end(self, text: str, cuts: Sequence[int]) -> int:
        """Behind the first text that ends an answer and is no one's words; 0 = there is none."""
        matches = (match for match in self._special.finditer(text) if match[0] in self._ends)
        return next((match.end() for match in matches if not _is_cut(match, cuts)), 0)

    def _read(self, prompt: ChatPrompt, text: str, cuts: Sequence[int], chat: TrainingChat, message: Message) -> bool:
        """Whether what the message thought is not in the answer.

        Raises:
            ChangedAnswer: the answer would not be read as what the message says.
        """
        reading = self._prompts.reading(prompt, chat.tools)

        def shown(match: re.Match[str]) -> str:
            return match[0] if _is_cut(match, cuts) or reading.markup.shows(match[0]) else ""

        reader = reader_of(reading)
        parts = [*reader.push(self._special.sub(shown, text)), *reader.finish()]
        said, thought = ("".join(part.text for part in parts if part.kind == kind) for kind in ("text", "reasoning"))
        if said.strip() != message.content.strip():
            raise ChangedAnswer(f"it is read as {said[:60]!r}")
        if chat.tools and (calls := _calls(parts)) != [(call.name, _json(call.arguments)) for call in message.calls]:
            raise ChangedAnswer(f"its calls are read as {calls!r}"[:120])
        return thought.strip() != message.reasoning.strip()


def _is_cut(match: re.Match[str], cuts: Sequence[int]) -> bool:
    """Whether it is somebody's words."""
    return any(match.start() < cut < match.end() for cut in cuts)


def _calls(parts: Sequence[Part]) -> list[tuple[str, object]]:
    names = {part.call: part.text for part in parts if part.kind == "call_name"}
    arguments = {
        call: "".join(part.text for part in parts if part.kind == "call_arguments" and part.call == call)
        for call in names
    }
    return [(name, _json(arguments[call])) for call, name in names.items()]


def _json(text: str) -> object:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return text
