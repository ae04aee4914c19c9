"""What is done with a chat template, as data: a question and its answer can go to another process and back.

A template comes from a model file, and what it computes in one go nothing in its own process can end. So a loaded model
has a process for it (`text.template_process`), which runs this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from edgellm.errors import BadTemplate
from edgellm.text.chat import UNDEFINED, ChatTemplate
from edgellm.text.markup import markup_of
from edgellm.text.template_caps import TemplateCaps, caps_of
from edgellm.types.markup import Markup

SECONDS = 3.0  # of processor time for a job: a render has one, and compiling takes up to another
MEMORY_BYTES = 512 * 1024**2  # of addresses; Python and Jinja take 32 MiB, and a render makes 128 MiB of text at most


class TemplateSource(msgspec.Struct, frozen=True):
    source: str
    bos_text: str = ""
    eos_text: str = ""


class CapsJob(msgspec.Struct, frozen=True, tag="caps"):
    """What the template takes (`caps_of`)."""

    template: TemplateSource


class MarkupJob(msgspec.Struct, frozen=True, tag="markup"):
    """How answers are marked (`markup_of`)."""

    template: TemplateSource
    declared: Markup | None = None


class RenderJob(msgspec.Struct, frozen=True, tag="render"):
    """The prompt of a conversation. `unset`: variables that are not there."""

    template: TemplateSource
    messages: list[dict[str, Any]]
    variables: dict[str, Any]
    unset: list[str]
    add_generation_prompt: bool


TemplateJob = CapsJob | MarkupJob | RenderJob


class JobResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part that was asked for, or what `BadTemplate` says."""

    text: str = ""
    caps: TemplateCaps = TemplateCaps()
    markup: Markup = Markup()
    failure: str = ""
    hint: str = ""


RunJob = Callable[[TemplateJob], JobResult]


def run(job: TemplateJob) -> JobResult:
    """
    Raises:
        BadTemplate: the template is broken, refuses these messages, fails, or exceeds its budget.
    """
    template = ChatTemplate(job.template.source, bos_text=job.template.bos_text, eos_text=job.template.eos_text)
    match job:
        case CapsJob():
            return JobResult(caps=caps_of(template))
        case MarkupJob(declared=declared):
            return JobResult(markup=markup_of(template, declared))
        case RenderJob(messages=messages, add_generation_prompt=opens):
            variables = job.variables | dict.fromkeys(job.unset, UNDEFINED)
            return JobResult(text=template.render(messages, add_generation_prompt=opens, **variables))


def answer(question: bytes) -> bytes:
    """`run`, of a job and with a result as JSON."""
    try:
        result = run(msgspec.json.decode(question, type=TemplateJob))
    except BadTemplate as error:
        result = JobResult(failure=error.message, hint=error.hint)
    except (MemoryError, RecursionError) as error:  # before or after a render
        result = JobResult(failure=f"the chat template was stopped: {type(error).__name__}")
    return msgspec.json.encode(result)


if __name__ == "__main__":
    from edgellm.contract.helper import answer_all

    answer_all(answer, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
