"""Turns records into the tokens that serving would make of them, and says which of them are learned.

An answer is learned behind exactly the tokens of the request that would be sent for it. Answers of one conversation
share an example only where the request for a later one begins with the tokens of the earlier one and its answer;
otherwise each has an example of its own. So a template that leaves out thoughts of the past, or ends the last answer in
another way than those before it, is learned as it is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgellm.adaptation.answers import AnswerWriter, ChangedAnswer
from edgellm.adaptation.example import Example
from edgellm.adaptation.findings import Findings
from edgellm.contract.engine import EngineInfo, Tokenizer
from edgellm.errors import EdgeLLMError, UsageError
from edgellm.text.cuts import SpecialTexts, encoded
from edgellm.text.prompt import PromptBuilder
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord, TrainingText

_LABEL_CHARS = 64  # an answer no longer than this may be that of many examples
_NO_PREFIX = "its tokens do not follow those of the prompt"


class Encode(Protocol):
    """Tokens of a text, as those of a request with the same values are."""

    def __call__(self, text: str, cuts: tuple[int, ...], *, add_bos: bool, parse_special: bool) -> Sequence[int]: ...


def encoder(tokenizer: Tokenizer) -> Encode:
    def encode(text: str, cuts: tuple[int, ...], *, add_bos: bool, parse_special: bool) -> list[int]:
        return encoded(tokenizer, text, cuts, add_special=add_bos, parse_special=parse_special)

    return encode


class Renderer:
    """For one model."""

    def __init__(
        self, info: EngineInfo, encode: Encode, prompts: PromptBuilder | None, *, length: int, raw: bool = False
    ) -> None:
        """
        Args:
            prompts: None = the model has no template, and conversations are refused.
            length: most tokens of an example.
            raw: a text and how it goes on are no question and answer, but continued as /v1/completions does.
        """
        self._info = info
        self._encode = encode
        self._length = length
        self._raw = raw or prompts is None
        self._special = SpecialTexts(info)
        self._end = info.eos_text if self._ids(info.eos_text)[-1:] and self._ends_answer(info.eos_text) else ""
        ends = [text for text in info.special_texts if text != self._end and self._ends_answer(text)]
        self._labels: dict[tuple[str, tuple[int, ...], bool], list[int]] = {}  # tokens of short answers
        self._answers = AnswerWriter(info, prompts, [*([self._end] if self._end else []), *ends]) if prompts else None

    def examples(self, record: TrainingRecord, findings: Findings) -> list[Example]:
        """None where it cannot be learned: the findings say why."""
        try:
            examples = self._unbounded(record, findings)
        except UsageError as error:
            findings.add(record.line, "not_tokenized", value=error.message)
            return []
        fitting = [cut for example in examples if (cut := self._fitting(example, findings)) is not None]
        if examples and not fitting:
            tokens = min(int(np.argmax(example.supervised)) for example in examples)
            findings.add(record.line, "nothing_supervised", value=tokens)
        for example in fitting:
            findings.n_examples += 1
            findings.n_tokens += len(example)
            findings.n_supervised += example.n_supervised
        return fitting

    def _unbounded(self, record: TrainingRecord, findings: Findings) -> list[Example]:
        """However long they are.

        Raises:
            UsageError: nobody could ask for as much.
        """
        if isinstance(record, TrainingPair) and not self._raw:
            record = record.chat
        if isinstance(record, TrainingChat):
            return self._of_chat(record, findings)
        if isinstance(record, TrainingPair):
            return self._of_pair(record, findings)
        return self._of_text(record, findings)

    def _fitting(self, example: Example, findings: Findings) -> Example | None:
        findings.longest = max(findings.longest, len(example))
        if len(example) <= self._length:
            return example
        cut = example.cut(self._length)
        if not cut.n_supervised:
            return None
        findings.add(example.line, "truncated", value=len(example))
        return cut

    def _of_chat(self, chat: TrainingChat, findings: Findings) -> list[Example]:
        if self._answers is None:
            findings.add(chat.line, "no_template")
            return []
        joined = _Joined(chat.line)
        # Nobody asks for what comes first.
        places = [at for at, message in enumerate(chat.messages) if message.role == "assistant" and at]
        places = [place for place in places if place not in chat.unlearned]
        if not places:
            findings.add(chat.line, "no_answer")
        for place in places:
            try:
                prompt, answer = self._tokens(self._answers, chat, place, findings)
            except ChangedAnswer as error:
                findings.add(chat.line, "answer_changed", field=f"messages[{place}]", value=error)
                return []
            except EdgeLLMError as error:
                findings.add(chat.line, "template_refused", field=f"messages[{place}]", value=error.message)
                return []
            joined.add(prompt, answer)
        if len(joined.examples) > 1:
            findings.add(chat.line, "in_pieces", value=len(joined.examples))
        return joined.examples

    def _tokens(
        self, answers: AnswerWriter, chat: TrainingChat, place: int, findings: Findings
    ) -> tuple[list[int], list[int]]:
        """Of the request for an answer, and of the answer."""
        answer = answers.answer(chat, place)
        prompt = answer.prompt
        asked = self._ids(prompt.text, prompt.cuts, add_bos=prompt.add_bos)
        label = answer.text, answer.cuts, prompt.add_bos
        said = self._labels.get(label)  # no token spans the cut before it, so they are those behind any prompt
        if said is None:
            start = len(prompt.text)
            cuts = (*prompt.cuts, start, *(start + cut for cut in answer.cuts))
            whole = self._ids(prompt.text + answer.text, cuts, add_bos=prompt.add_bos)
            if not asked or whole[: len(asked)] != asked or whole[-1] not in self._info.eos_ids:
                raise ChangedAnswer(_NO_PREFIX)
            said = whole[len(asked) :]
            if len(answer.text) <= _LABEL_CHARS:
                self._labels[label] = said
        if not asked:
            raise ChangedAnswer(_NO_PREFIX)
        if answer.end_added:
            findings.add(chat.line, "end_added", field=f"messages[{place}]")
        if answer.lacks_thought:
            findings.add(chat.line, "thought_left_out", field=f"messages[{place}]")
        return asked, said

    def _of_pair(self, pair: TrainingPair, findings: Findings) -> list[Example]:
        start = len(pair.prompt)
        asked = self._ids(pair.prompt, add_bos=True)
        special = (start + place + 1 for place in self._special.places(pair.completion))
        cuts = tuple(cut for cut in (start, *special) if cut)
        whole = self._ids(pair.prompt + pair.completion, cuts, add_bos=True) + self._ids(self._end)
        if whole[: len(asked)] != asked:
            findings.add(pair.line, "answer_changed", field="completion", value=_NO_PREFIX)
            return []
        n_read = max(1, len(asked))  # nothing is before the first
        return [_example(whole, [False] * n_read + [True] * (len(whole) - n_read), pair.line)]

    def _of_text(self, text: TrainingText, findings: Findings) -> list[Example]:
        """In pieces that fit, each behind the token before it, so that every token but the first is learned once."""
        whole = [*self._encode(text.text, (), add_bos=True, parse_special=False), *self._ids(self._end)]
        step = max(1, self._length - 1)
        pieces = [whole[at : at + self._length] for at in range(0, max(1, len(whole) - 1), step)]
        if len(pieces) > 1:
            findings.add(text.line, "in_pieces", value=len(pieces))
        return [_example(piece, [False] + [True] * (len(piece) - 1), text.line) for piece in pieces]

    def _ids(self, text: str, cuts: tuple[int, ...] = (), *, add_bos: bool = False) -> list[int]:
        return list(self._encode(text, cuts, add_bos=add_bos, parse_special=True)) if text or add_bos else []

    def _ends_answer(self, text: str) -> bool:
        ids = self._ids(text)
        return len(ids) == 1 and ids[0] in self._info.eos_ids


class _Joined:
    """Answers of one conversation, in as few examples as serving them allows."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._tokens: list[list[int]] = []
        self._supervised: list[list[bool]] = []

    def add(self, prompt: list[int], answer: list[int]) -> None:
        if self._tokens and prompt[: len(self._tokens[-1])] == self._tokens[-1]:
            read = prompt[len(self._tokens[-1]) :]
        else:
            self._tokens.append([])
            self._supervised.append([])
            read = prompt
        self._tokens[-1] += read + answer
        self._supervised[-1] += [False] * len(read) + [True] * len(answer)

    @property
    def examples(self) -> list[Example]:
        pairs = zip(self._tokens, self._supervised, strict=True)
        return [_example(tokens, supervised, self._line) for tokens, supervised in pairs]


def _example(tokens: list[int], supervised: list[bool], line: int) -> Example:
    return Example(np.array(tokens, np.int32), np.array(supervised, np.bool_), line)
