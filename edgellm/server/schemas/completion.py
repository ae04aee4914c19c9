"""The body of `/v1/completions`, and the requests that it becomes: one for each prompt."""

from __future__ import annotations

import functools
from typing import Annotated

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.server.schemas.generation import GenerationBody
from edgellm.server.schemas.inputs import Inputs, inputs_of
from edgellm.types.checks import check_range
from edgellm.types.logprob import MAX_TOP
from edgellm.types.request import MAX_TOKEN_BYTES, GenerationRequest

# OpenAI's default for /v1/completions; chat has none.
MAX_TOKENS = 16
MAX_ANSWERS = 2048  # to all prompts of a request, as OpenAI's API allows
MAX_ECHO = 2_000_000  # characters or tokens of prompts that come back, times the tokens that are told for each
MAX_ECHO_BYTES = 4 * MAX_ECHO  # of what token ids are as text


class CompletionBody(GenerationBody, kw_only=True):
    """POST /v1/completions."""

    text_field = "prompt"

    prompt: Inputs
    best_of: Annotated[int | None, Meta(description="How many answers to write; the n likeliest are sent.")] = None
    echo: Annotated[bool | None, Meta(description="The answer begins with the prompt.")] = None
    suffix: Annotated[str | None, Meta(description="What comes after the answer; for models that fill in.")] = None
    logprobs: Annotated[int | None, Meta(description="How many likely tokens to tell for each; 0 = only its own.")] = (
        None
    )
    parse_special: Annotated[
        bool | None, Meta(description="Extension. Whether `<|im_end|>` and the like in the prompt are tokens; true.")
    ] = None

    @property
    def n_sent(self) -> int:
        """Answers to each prompt that are sent."""
        return 1 if self.n is None else self.n

    @property
    def n_drawn(self) -> int:
        """Answers to each prompt that are written."""
        return self.n_sent if self.best_of is None else self.best_of

    def to_requests(self, llm: EdgeLLM) -> list[GenerationRequest]:
        """The texts to continue, with their settings.

        Raises:
            UsageError: a value is out of range, with the name of its field; the model does not fill in.
        """
        self._check_counts()
        self._check_echoed_ids(llm)
        if self.echo and self.suffix:
            raise UsageError("echo and suffix were both sent", hint="send one of them", param="echo")
        # Answers are compared by their tokens' logprobs.
        top_logprobs = 0 if self.logprobs is None and self.n_drawn > self.n_sent else self.logprobs
        # Once for all prompts: checking a schema of 64 KiB takes milliseconds.
        sampling, grammar = self.sampling(), self.wanted_grammar()
        return [
            GenerationRequest(
                prompt,
                sampling,
                self.limit(),
                self.stops(),
                parse_special=self.parse_special is not False or bool(self.suffix),
                ignore_eos=bool(self.ignore_eos),
                grammar=grammar,
                top_logprobs=top_logprobs,
                n=self.n_drawn,
                cuts=cuts,
                echo=bool(self.echo),
                progress=self.wants_progress,
                reuse=self.cache_prompt is not False,
                adapters=self.wanted_adapters(),
            )
            for prompt, cuts in map(functools.partial(self._filled_in, llm), self.prompts())
        ]

    def _filled_in(self, llm: EdgeLLM, prompt: str | tuple[int, ...]) -> tuple[str | tuple[int, ...], tuple[int, ...]]:
        if not self.suffix:
            return prompt, ()
        if not isinstance(prompt, str):
            raise UsageError("a suffix needs a prompt that is text", hint="send text", param="suffix")
        from edgellm.text.infill import infill_prompt

        return infill_prompt(llm.info, prompt, self.suffix, parse_special=bool(self.parse_special))

    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        return inputs_of(self.prompt, "prompt")

    def limit(self) -> int:
        """The largest number of tokens in the answer."""
        return MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def _check_counts(self) -> None:
        check_range((self.logprobs or 0) in range(MAX_TOP + 1), f"logprobs={self.logprobs}", f"0 to {MAX_TOP}")
        prompts = self.prompts()
        n_prompts = len(prompts)
        if not n_prompts:
            raise UsageError("prompt holds no text", hint="send at least one", param="prompt")
        if self.n_drawn < self.n_sent:
            raise UsageError("best_of is smaller than n", hint="n answers are chosen among best_of", param="best_of")
        if self.n_drawn > self.n_sent and self.stream:
            raise UsageError(
                "best_of cannot be streamed: which answers are best is known at their end",
                hint="leave out stream or best_of",
                param="best_of",
            )
        if n_prompts * self.n_drawn > MAX_ANSWERS:
            raise UsageError(
                f"{n_prompts} prompts with {self.n_drawn} answers each are over {MAX_ANSWERS} answers",
                hint="send several smaller requests",
                param="prompt" if self.n_drawn == 1 else "n",
            )
        n_echoed = sum(map(len, prompts)) * self.n_sent if self.echo else 0
        if n_echoed * (1 + (self.logprobs or 0)) > MAX_ECHO:
            raise UsageError(
                f"{n_echoed} characters or tokens of prompts, with {self.logprobs or 0} logprobs each, are more than "
                f"come back at a time ({MAX_ECHO})",
                hint="send several smaller requests",
                param="echo",
            )

    def _check_echoed_ids(self, llm: EdgeLLM) -> None:
        """A token may be a hundred blanks: of many, the model is asked."""
        ids = [prompt for prompt in self.prompts() if not isinstance(prompt, str)] if self.echo else []
        if sum(map(len, ids)) * self.n_sent * MAX_TOKEN_BYTES <= MAX_ECHO_BYTES:
            return
        tokens = [token for prompt in ids if len(prompt) < llm.info.n_ctx for token in prompt]
        n_bytes = sum(map(len, llm.pieces(tokens))) * self.n_sent
        if n_bytes > MAX_ECHO_BYTES:
            raise UsageError(
                f"the prompts and n={self.n_sent} make {n_bytes} bytes that come back; {MAX_ECHO_BYTES} are allowed",
                hint="send several smaller requests",
                param="echo",
            )
