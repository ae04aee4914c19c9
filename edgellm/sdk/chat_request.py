"""A conversation, and what is asked of the answer to it, as a `GenerationRequest`: the one place where they meet."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellm.errors import BadTemplate, UnsupportedField, UnsupportedTask, UsageError
from edgellm.sdk.conversation import Messages, messages_of, texts_of
from edgellm.sdk.generation import GenerationMethods
from edgellm.sdk.toolbox import tools_of
from edgellm.types.grammar import Grammar
from edgellm.types.message import TOOL_CHOICES, AnyTool, NamedTool, Tool, ToolChoice
from edgellm.types.plan import LaunchPlan
from edgellm.types.reasoning import BUDGET_SHARES, EFFORTS, ReasoningEffort
from edgellm.types.request import ChatKeywords, GenerationRequest, check_prompt
from edgellm.types.sampling import Sampling, SamplingKeywords

if TYPE_CHECKING:
    from edgellm.text.prompt import PromptBuilder

_OF_ANSWER = ChatKeywords.__annotations__.keys() - SamplingKeywords.__annotations__.keys()


class RequestMethods(GenerationMethods):
    """The methods of `EdgeLLM` that make a request of messages. Thread-safe."""

    plan: LaunchPlan

    def request(
        self,
        messages: Messages,
        *,
        tools: Sequence[AnyTool] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
        top_logprobs: int | None = None,
        n: int = 1,
    ) -> GenerationRequest:
        """What the model's chat template makes of a conversation, and what is asked of the answer.

        Args:
            tool_choice: "auto" (the model decides), "none", "required" (it calls one at least), or a `NamedTool`.
            parallel_tool_calls: whether one answer may call more than one.
            thinking: whether the model thinks before it answers, where it can; None = as it is served.
            reasoning_effort: "none" = no thinking; the others think, with so much of `max_tokens` at most: "minimal"
                1/16, "low" 1/4, "medium" 1/2, "high" 3/4, "xhigh" and "max" as much as it wants.
            template_kwargs: further variables of the template, JSON-like values only.
            add_generation_prompt: whether the template opens the answer.
            continue_final_message: whether the answer goes on in the last message, which is then an assistant's.
            ignore_eos: whether it goes on after the model ends its answer.
            n: how many answers.

        Raises:
            BadTemplate: the model has no template, or it is broken; UsageError: no messages, an unknown role, options
            that disagree; UnsupportedTask: the model writes no text.
        """
        info = self._session.info
        if not info.generates:
            raise UnsupportedTask(
                f"{self.plan.artifact.name} answers no chat: it turns texts into vectors or scores",
                hint="use EdgeLLM.embed or rerank, or /v1/embeddings of `edgellm serve`; name a chat model to chat",
            )
        offered = tools_of(tools)
        _check_choice(tool_choice, offered)
        if offered and tool_choice != "none":
            raise UnsupportedField("tools are not served yet", hint="leave them out", param="tools")
        conversation = messages_of(messages)
        check_prompt(tuple(texts_of(conversation, offered)), info.n_ctx)
        thinks = _thinks(thinking, reasoning_effort, served=self.plan.thinking)
        prompt = self._prompts.build(
            conversation,
            thinking=thinks,
            kwargs=template_kwargs,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        return GenerationRequest(
            prompt.text,
            sampling,
            max_tokens,
            (stop,) if isinstance(stop, str) else tuple(stop),
            add_bos=prompt.add_bos,
            ignore_eos=ignore_eos,
            grammar=grammar,
            top_logprobs=top_logprobs,
            n=n,
            thinking=thinks,
            cuts=prompt.cuts,
        )

    def _asked(self, messages: Messages, options: ChatKeywords) -> GenerationRequest:
        names = ChatKeywords.__annotations__
        if unknown := sorted(options.keys() - names.keys()):
            hint = f"options are: {', '.join(names)}"
            raise UsageError(f"unknown option: {', '.join(unknown)}", hint=hint, param=unknown[0])
        own: dict[str, Any] = {name: value for name, value in options.items() if name in _OF_ANSWER}
        drawn: dict[str, Any] = {name: value for name, value in options.items() if name not in _OF_ANSWER}
        return self.request(messages, sampling=Sampling.of(**drawn), **own)

    @functools.cached_property
    def _prompts(self) -> PromptBuilder:
        from edgellm.text.prompt import PromptBuilder

        info = self._session.info
        if info.chat_template is None:
            raise BadTemplate(
                f"{self.plan.artifact.name} has no chat template: it is a base model that continues text",
                hint="use completions (/v1/completions, EdgeLLM.generate, `edgellm run --raw`), or choose a chat model",
            )
        return PromptBuilder(info)


def _check_choice(choice: ToolChoice, tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    if isinstance(choice, NamedTool):
        if choice.name not in names:
            hint = f"tools are: {', '.join(names) or 'none'}"
            raise UsageError(
                f"tool_choice names {choice.name[:60]!r}, which is no tool", hint=hint, param="tool_choice"
            )
    elif choice not in TOOL_CHOICES:
        hint = f"one of: {', '.join(TOOL_CHOICES)}, or a NamedTool"
        raise UsageError(f"tool_choice={choice!r}"[:80] + " is no choice", hint=hint, param="tool_choice")
    elif choice == "required" and not tools:
        raise UsageError("a tool has to be called, and there are none", hint="send tools", param="tool_choice")


def _thinks(thinking: bool | None, effort: ReasoningEffort | None, *, served: bool) -> bool:
    """Whether a model that can think or not is to think. `served`: where the request leaves it open."""
    if effort is None:
        return served if thinking is None else thinking
    if effort not in EFFORTS:
        hint = f"one of: {', '.join(EFFORTS)}"
        raise UsageError(f"unknown reasoning_effort {effort!r}"[:80], hint=hint, param="reasoning_effort")
    if thinking is not None and thinking != (effort != "none"):
        what = f"thinking={thinking} and reasoning_effort={effort!r} disagree"
        raise UsageError(what, hint="send one of them", param="reasoning_effort")
    return effort != "none"


def _budget(effort: ReasoningEffort | None, most: int) -> int | None:
    """Most tokens of thinking in an answer of at most so many; None = as many as it wants."""
    share = BUDGET_SHARES.get(effort) if effort else None
    return None if share is None else max(1, int(share * most))
