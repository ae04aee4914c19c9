"""A plan with what the user asks for beside the model: threads, options that its backend defines, sampling.

And what is asked in vain.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from edgellm.app import context as app_context
from edgellm.app import sampling_defaults
from edgellm.contract import answers
from edgellm.contract.backend import Configurable
from edgellm.contract.manager import plugins
from edgellm.errors import UnsupportedTask, UsageError, loading, option, speaks_in_flags
from edgellm.selection import busy
from edgellm.selection.scenario import THINKING_TOKENS
from edgellm.types.backend_reason import OptionsAsked
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan
from edgellm.types.reason import Thinks, Threads
from edgellm.types.request import MAX_THREADS
from edgellm.types.sampling import Sampling


def as_asked(plan: LaunchPlan, options: LaunchOptions) -> LaunchPlan:
    """The plan with everything that is not a matter of choice.

    Raises:
        UsageError: a value is out of range, or has no meaning for the backend. BadArtifact: the file is damaged.
    """
    plan = with_options(plan, options.options or {})
    return with_answers(plan, options.sampling, thinking=options.thinking)


def with_threads(plan: LaunchPlan, threads: int) -> LaunchPlan:
    """The plan with another number of threads, to compare them.

    Raises:
        UsageError: none, or more than any machine has.
    """
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads={threads} is out of range", hint=f"allowed: 1 to {MAX_THREADS}", param="threads")
    processors = os.cpu_count() or threads
    asked = Threads(threads, asked=True, processors=processors if threads > processors else None)
    reasons = (*busy.with_threads(plan.reasons, threads), asked)
    step_s = plan.step_s and plan.step_s * max(1, plan.settings.n_threads_batch / threads)
    run = replace(plan.settings, n_threads=threads, n_threads_batch=threads)
    return replace(plan, settings=run, reasons=reasons, step_s=step_s)


def with_options(plan: LaunchPlan, options: Mapping[str, str]) -> LaunchPlan:
    """The plan with settings that its backend defines.

    Raises:
        UsageError: the backend has none, or not these.
    """
    if not options:
        return plan
    backend = plugins().backend(plan.backend)
    pairs = tuple(sorted(options.items()))
    if not isinstance(backend, Configurable):
        raise UsageError(f"the {plan.backend} backend has no options of its own", hint="give it none", param="options")
    answers.answer(backend, "check_options", pairs)
    own = replace(plan.settings, options=pairs)
    reasons = (*plan.reasons, OptionsAsked(pairs))
    footprint = answers.footprint(backend, plan.artifact, own) or plan.footprint
    return replace(plan, settings=own, reasons=reasons, footprint=footprint)


def with_answers(plan: LaunchPlan, asked: Sampling | None, *, thinking: bool) -> LaunchPlan:
    """The plan with how requests that leave it open are answered, of a model that writes: what they are drawn by, and
    whether they think first.

    Raises:
        BadArtifact: the file that says it is damaged. UsageError: a row of the catalog is malformed.
    """
    card = app_context.rows().get(plan.artifact.model_id)
    if not sampling_defaults.writes(plan.artifact, card):
        return plan
    plain, thought = (sampling_defaults.of(plan.artifact, card, asked, thinking=thinks) for thinks in (False, True))
    sampling_defaults.warn(plain)
    thinks = card.thinks(thinking) if card is not None else thinking
    defaults = thought if thinks else plain
    reasons = (
        *plan.reasons,
        *([Thinks(THINKING_TOKENS, card is not None and card.thinking)] if thinks else []),
        defaults,
    )
    return replace(
        plan,
        sampling=plain,
        thinking=thinks,
        thinking_sampling=thought if thought != plain else None,
        reasons=reasons,
    )


def refuse_chat(model: str | None) -> NoReturn:
    """Raises UnsupportedTask: a model that only reads (None = any of the task embed) was asked to chat."""
    serve = (
        f"`edgellm serve {model or '--task embed'}` answers /v1/embeddings or /v1/rerank; EdgeLLM.embed does in Python"
    )
    load = f"`{loading(model or 'MODEL')}` without a task loads it for `embed` and `rerank`"
    raise UnsupportedTask(
        f"{model or 'a model of the task embed'} answers no chat: it turns texts into vectors or scores",
        hint=serve if speaks_in_flags() else load,
    )


def refuse_embed(model: str) -> NoReturn:
    """Raises UnsupportedTask: a model that writes was asked to embed."""
    hint = f"name an embedding model (`edgellm models` lists them), or leave {option('task')} out"
    raise UnsupportedTask(f"{model} writes text, and makes no embeddings", hint=hint)


def refuse_options(model: str, **options: object) -> None:
    """Refuses flags that have no meaning for a named file or backend, rather than ignoring them."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{option(name)} has no meaning for {model}", hint=f"leave {option(name)} out", param=name)
