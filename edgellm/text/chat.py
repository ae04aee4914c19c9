"""Turns messages into the prompt that a model was trained on, with the chat template of its file.

The template is a program that a stranger wrote: it runs in `sandbox.Sandbox`, where its reach and its time are bounded,
and for a loaded model in a process that can be ended (`template_process.py`).
What a template finds there (`bos_token`, `raise_exception`, `strftime_now`, `tojson`, trimmed blocks, loop controls) is
what Hugging Face transformers gives it, because templates are written against that. `date_string`, `datetime` and
`from_json` are what other programs give.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from edgellm.errors import BadTemplate
from edgellm.text.budget import MAX_SECONDS, Budget, spending
from edgellm.text.cuts import texts_in
from edgellm.types.message import Message

if TYPE_CHECKING:
    from jinja2 import Template

# What a request may not set.
PROTECTED = frozenset({
    "messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token",
    "raise_exception", "strftime_now", "chat_template", "self", "loop", "range", "dict", "cycler", "joiner",
    "namespace",
})  # fmt: skip
UNDEFINED = object()  # in place of a variable's value
PROBE_S = 0.1  # of processor time; a template in use takes 1 ms
_NAME = "<chat template>"
HINT = "write the prompt yourself: EdgeLLM.generate, /v1/completions, `edgellm run --raw`"


class ChatTemplate:
    """A compiled template. Rendering is safe from several threads at once.

    Raises:
        BadTemplate: it is too long, has a syntax error, or uses what is not available.
    """

    def __init__(
        self, source: str, *, bos_text: str = "", eos_text: str = "", clock: Callable[[], datetime] = datetime.now
    ) -> None:
        """`clock` gives the date that templates may write with `strftime_now`."""
        self._tokens = {"bos_token": bos_text, "eos_token": eos_text}
        self._clock = clock
        self.source = source
        self._template = _compiled(source)

    def render(
        self, messages: Sequence[Message | Mapping[str, Any]], *, add_generation_prompt: bool = True, **extra: Any
    ) -> str:
        """The prompt. `extra` are further variables (`tools`, `enable_thinking`), JSON-like values only; one that is
        `UNDEFINED` is not there.

        Raises:
            BadTemplate: the template refuses these messages, fails, or exceeds its budget; says in which line.
        """
        return self._rendered(messages, add_generation_prompt, extra, MAX_SECONDS)

    def probe(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **extra: Any
    ) -> str | None:
        """As `render`, to find out what the template does: None where it fails, or takes `PROBE_S`."""
        try:
            return self._rendered(messages, add_generation_prompt, extra, PROBE_S)
        except BadTemplate:
            return None

    def _rendered(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        add_generation_prompt: bool,
        extra: Mapping[str, Any],
        seconds: float,
    ) -> str:
        variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            **self._tokens,
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now(),
            "date_string": self._clock().strftime("%d %b %Y"),
            "datetime": self._clock().strftime("%b %d %Y"),
            **extra,
            "messages": [_plain(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        variables = {name: value for name, value in variables.items() if value is not UNDEFINED}
        budget = Budget(seconds)
        pieces: list[str] = []
        length = 0
        try:
            with spending(budget):
                for piece in self._template.generate(variables):
                    pieces.append(piece)
                    length += len(piece)
                    budget.allow(length)
        except Exception as error:  # whatever a hostile program raises
            raise _failure(error) from error
        return _checked("".join(pieces), variables)

    def _strftime_now(self) -> Callable[[str], str]:
        clock = self._clock

        def strftime_now(pattern: str) -> str:
            return clock().strftime(str(pattern)[:256])

        strftime_now.edgellm_safe = True  # type: ignore[attr-defined]
        return strftime_now


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    from edgellm.text.extent import MAX_SOURCE
    from edgellm.text.sandbox import Sandbox

    if len(source) > MAX_SOURCE:
        raise BadTemplate(f"the chat template has {len(source)} characters, {MAX_SOURCE} are allowed", hint=HINT)
    try:
        template: Template = Sandbox().build(source, _NAME)
    except Exception as error:  # Jinja's and Python's own compilers raise many kinds
        raise _failure(error) from error
    return template


def _checked(text: str, variables: Mapping[str, Any]) -> str:
    """Half of a surrogate pair that no variable brought is the template's fault, and no prompt."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        if not any(half in given for given in texts_in(variables)):
            raise BadTemplate(f"the chat template writes {half!r}, half of a character", hint=HINT) from None
    return text


def _raise_exception(message: Any) -> NoReturn:
    from edgellm.text.sandbox import RaisedByTemplate

    raise RaisedByTemplate(str(message)[:500])


_raise_exception.edgellm_safe = True  # type: ignore[attr-defined]


def _plain(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(message, Message):
        return {"role": message.role, "content": message.content}
    return dict(message)


def _failure(error: Exception) -> BadTemplate:
    """What went wrong, in which line, and whose fault it is."""
    from edgellm.text.budget import OverBudget
    from edgellm.text.sandbox import RaisedByTemplate

    line = getattr(error, "lineno", None) or _line_of(error)
    where = f" (line {line} of the template)" if line else ""
    if isinstance(error, RaisedByTemplate):
        return BadTemplate(f"the chat template refuses these messages: {error}{where}", hint="change the messages")
    if isinstance(error, OverBudget):
        return BadTemplate(f"the chat template was stopped: {error}{where}", hint=HINT)
    if isinstance(error, RecursionError):
        return BadTemplate(f"the chat template was stopped: it calls itself too deeply{where}", hint=HINT)
    reason = str(error)[:300] or type(error).__name__
    return BadTemplate(f"the chat template failed: {reason}{where}", hint=HINT)


def _line_of(error: Exception) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _NAME]
    return lines[-1] if lines else None
