"""A conversation, and what is asked of the answer to it, as a `GenerationRequest`: the one place where they meet."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellm import explain
from edgellm.errors import BadTemplate, ContextOverflow
from edgellm.runtime.unsupported_task import unsupported_task
from edgellm.sdk.asking import ask_all, in_thread, keeping_to, of_kind
from edgellm.sdk.chat_arguments import check_kinds, drawn_apart, stops_of, variables_of
from edgellm.sdk.conversation import Messages, messages_of, texts_of
from edgellm.sdk.deadline import Deadline
from edgellm.sdk.generation import GenerationMethods
from edgellm.sdk.toolbox import check_choice, tools_of
from edgellm.text.truncation import room, truncated
from edgellm.types.adapter import AskedAdapters, adapters_of
from edgellm.types.checks import plain_numbers
from edgellm.types.event import Tokens
from edgellm.types.grammar import Grammar
from edgellm.types.markup import Reading
from edgellm.types.message import AnyTool, Message, Tool, ToolChoice
from edgellm.types.plan import LaunchPlan
from edgellm.types.reasoning import ReasoningEffort, thinking_budget, thinks_first
from edgellm.types.request import ChatKeywords, GenerationRequest, TokenizeRequest, check_prompt
from edgellm.types.sampling import Sampling, SamplingKeywords

if TYPE_CHECKING:
    from edgellm.text.prompt import ChatPrompt, PromptBuilder
    from edgellm.text.template_process import TemplateProcess

_log = logging.getLogger("edgellm.prompt")
_AROUND = 8  # tokens, at most, that a model wants around a text; in it each has a byte


class RequestMethods(GenerationMethods):
    """The methods of `EdgeLLM` that make a request of messages. Thread-safe."""

    plan: LaunchPlan
    _templates: TemplateProcess

    def request(
        self,
        messages: Messages,
        *,
        tools: Sequence[AnyTool] | None = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        sampling: Sampling | SamplingKeywords = Sampling(),  # noqa: B008 - frozen
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
        logprobs: bool = False,
        top_logprobs: int | None = None,
        n: int = 1,
        progress: bool = False,
        reuse: bool = True,
        truncate: bool = False,
        adapters: AskedAdapters | None = None,
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
            grammar: what the answer looks like, where it calls no tools.
            logprobs: whether each token comes with its logprob.
            top_logprobs: so many likely tokens in the place of each one, too (0 to 20); with `logprobs` or without.
            n: how many answers.
            progress: whether its events tell how much of the prompt has been read (`Prefill`).
            reuse: whether what an earlier request left in the cache is used.
            truncate: whether the oldest messages are dropped where the context does not hold all of them and the answer
                (`max_tokens`, or 256): whole turns, with the results of tools, but never system messages. The request's
                notes say how many.
            adapters: the LoRA adapters that answer, of those that are loaded: a name, several names, or scales by name
                as {"mail": 0.5}; () = the model as it is. None = those that it was loaded to answer with.

        Raises:
            BadTemplate: the model has no template, or it is broken; UsageError: no messages, an unknown role, options
            that disagree; UnsupportedTask: the model writes no text.
        """
        if isinstance(sampling, Mapping):
            sampling = Sampling.of(**sampling)
        info = self._session.info
        if not info.generates:
            raise unsupported_task("chat", info)
        check_kinds(
            template_kwargs=template_kwargs, thinking=thinking, parallel_tool_calls=parallel_tool_calls,
            logprobs=logprobs,
        )  # fmt: skip
        described = tools_of(tools)
        check_choice(tool_choice, described)
        offered = () if tool_choice == "none" else described
        whole = conversation = messages_of(messages)
        variables = variables_of(reasoning_effort, template_kwargs)
        asked = functools.partial(thinks_first, thinking, reasoning_effort, variables)
        thinks = asked(served=self.plan.thinking)
        given = plain_numbers(max_tokens)
        limit = given if isinstance(given, int) and given else info.n_ctx  # what is wrong with it, the request says

        def build(conversation: Sequence[Message]) -> ChatPrompt:
            with keeping_to(self._session.longest_ctx):
                check_prompt(tuple(texts_of(conversation, offered)), info.n_ctx)
                return self._prompts.build(
                    conversation,
                    offered,
                    thinking=thinks,
                    kwargs=variables,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                )

        prompt: ChatPrompt | None = None
        if truncate:
            most = info.n_ctx - room(None if max_tokens is None else limit, info.n_ctx)
            prompt, n_tokens = self._measured(build, whole, most)
            if n_tokens > most:
                prompt = None
                conversation = truncated(whole, lambda some: self._measured(build, some, most)[1], most, n_tokens)
        prompt = prompt or build(conversation)
        return GenerationRequest(
            prompt.text,
            sampling,
            max_tokens,
            stops_of(stop),
            add_bos=prompt.add_bos,
            ignore_eos=ignore_eos,
            grammar=self._grammar(prompt, offered, tool_choice, grammar, parallel=parallel_tool_calls),
            top_logprobs=0 if logprobs and top_logprobs is None else top_logprobs,
            n=n,
            cuts=prompt.cuts,
            thinking=thinks,
            reading=self._reading(prompt, offered),
            reasoning_budget=thinking_budget(
                reasoning_effort, limit if isinstance(limit, int) and limit else info.n_ctx
            ),
            notes=self._notes(prompt, len(whole) - len(conversation), wants_thoughts=asked(served=False)),
            progress=progress,
            reuse=reuse,
            adapters=adapters_of(adapters),
        )

    def _notes(self, prompt: ChatPrompt, n_dropped: int, *, wants_thoughts: bool) -> tuple[str, ...]:
        notes = set(prompt.notes)
        if wants_thoughts and self._prompts.markup.reasoning is None:
            notes.add("thinking_unsupported")
        return (*sorted(notes), *([f"messages_dropped: {n_dropped}"] if n_dropped else []))

    def _measured(
        self, build: Callable[[Sequence[Message]], ChatPrompt], conversation: Sequence[Message], most: int
    ) -> tuple[ChatPrompt | None, float]:
        """The prompt of the conversation, and its tokens, or the most that it may have where that is no more than
        `most`; none and math.inf where it is too long to be counted."""
        try:
            prompt = build(conversation)
            check_prompt((prompt.text,), self._session.info.n_ctx)
        except ContextOverflow:
            return None, math.inf
        # No token is shorter than a byte.
        n_most = len(prompt.text.encode(errors="replace")) + len(prompt.cuts) + _AROUND
        if n_most <= most:
            return prompt, n_most
        ask = TokenizeRequest(prompt.text, prompt.cuts, parse_special=True, add_bos=prompt.add_bos)
        return prompt, len(ask_all(self._session, [ask], of_kind(Tokens), Deadline(None))[0].ids)

    def _reading(self, prompt: ChatPrompt, tools: Sequence[Tool]) -> Reading | None:
        """How the answer is told from thoughts and calls; None where all of it is text."""
        reading = self._prompts.reading(prompt, tools)
        return reading if tools or reading.markup.reasoning or reading.markup.answer else None

    def _grammar(
        self,
        prompt: ChatPrompt,
        tools: Sequence[Tool],
        choice: ToolChoice,
        answer: Grammar | None,
        *,
        parallel: bool,
    ) -> Grammar | None:
        """That of the answer, unless it calls tools; where it has to, only that of calls."""
        if not tools:
            return answer
        from edgellm.text.answer_or_call import answer_or_call
        from edgellm.text.call_grammar import call_grammar

        markup = self._prompts.markup_after(prompt)
        if answer is not None and choice == "auto":
            return answer_or_call(answer, markup, tools, parallel=parallel, opened=prompt.opened)
        return call_grammar(markup, tools, choice, parallel=parallel, opened=prompt.opened)

    def _asked(
        self, messages: Messages, options: ChatKeywords, *own_names: str, progress: bool = False
    ) -> GenerationRequest:
        """`own_names`: what the method takes besides these options, for errors."""
        own, sampling = drawn_apart(options, *own_names)
        return self.request(messages, sampling=sampling, progress=progress, **own)

    async def _aasked(
        self, messages: Messages, options: ChatKeywords, *own_names: str, progress: bool = False
    ) -> GenerationRequest:
        """As `_asked`, for coroutines: it waits for another process, in which the template runs."""
        return await in_thread(self._session, self._asked, messages, options, *own_names, progress=progress)

    @functools.cached_property
    def _prompts(self) -> PromptBuilder:
        from edgellm.text.prompt import PromptBuilder

        info = self._session.info
        if info.chat_template is None:
            raise BadTemplate(
                f"{self.plan.artifact.name} has no chat template: it is a base model that continues text",
                hint="use completions (/v1/completions, EdgeLLM.generate, `edgellm run --raw`), or choose a chat model",
            )
        prompts = PromptBuilder(info, self._templates.run)
        if prompts.unused_template:
            _log.warning(explain.unused_key(prompts.unused_template))
        return prompts
