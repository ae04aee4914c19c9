"""Turns what a request asks for into what the loop runs: the tokens of its prompt, and a matcher for its grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import ContextOverflow, UsageError, option
from edgellm.text.cuts import encoded
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.types.request import GenerationRequest, check_prompt

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo, Tokenizer

Begun = tuple[list[int], list[Matcher | None]]  # the prompt, and a matcher for each choice


@dataclass(frozen=True, slots=True)
class PromptRead:
    """From the thread that reads long prompts and grammars: this one is ready, or was cancelled, or failed."""

    id: int
    generation: GenerationRequest


@dataclass(frozen=True, slots=True)
class TextRead:
    """From the same thread: a text to embed is ready."""


READ = TextRead()


class PromptReader:
    """For one model. `read` may run in another thread than the engine."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._grammars = GrammarCompiler(tokenizer, info)

    def read(self, generation: GenerationRequest) -> Begun:
        """
        Raises:
            UsageError: a bias for a token that does not exist, no prompt, or a grammar that cannot be used.
            ContextOverflow: the prompt leaves no room for an answer.
            BackendUnavailable: it has a grammar, and the library for them is not installed.
        """
        prompt, grammar = self._tokens(generation), generation.grammar
        return prompt, [self._grammars.matcher(grammar) if grammar else None for _ in range(generation.n)]

    def prepare(self) -> None:
        """Make what every grammar needs, so that the first one does not wait for it. Raises as `read` does."""
        self._grammars.prepare()

    def text(self, generation: GenerationRequest) -> str:
        """The prompt as text, of tokens too."""
        if isinstance(generation.prompt, str):
            return generation.prompt
        return b"".join(map(self._tokenizer.token_bytes, generation.prompt)).decode("utf-8", "replace")

    def _tokens(self, generation: GenerationRequest) -> list[int]:
        info = self._info
        beyond = [token for token, _ in generation.sampling.logit_bias if token >= info.vocab_size]
        if beyond:
            raise UsageError(f"logit_bias names token {beyond[0]}", hint=f"tokens are 0 to {info.vocab_size - 1}")
        prompt = self._given(generation.prompt) if not isinstance(generation.prompt, str) else self._encoded(generation)
        if not prompt:
            raise UsageError("the prompt has no tokens", hint="send at least one character")
        if len(prompt) >= info.n_ctx:
            raise ContextOverflow(
                f"the prompt has {len(prompt)} tokens, the context holds {info.n_ctx} and the answer needs one",
                hint=f"shorten the prompt, or start with a longer context ({option('ctx')})",
                n_prompt=len(prompt),
                n_ctx=info.n_ctx,
            )
        return prompt

    def _given(self, tokens: tuple[int, ...]) -> list[int]:
        beyond = next((token for token in tokens if not 0 <= token < self._info.vocab_size), None)
        if beyond is not None:
            hint = f"tokens are 0 to {self._info.vocab_size - 1}"
            raise UsageError(f"the prompt has token {beyond}", hint=hint, param="prompt")
        return list(tokens)

    def _encoded(self, generation: GenerationRequest) -> list[int]:
        text = str(generation.prompt)
        check_prompt((text,), self._info.n_ctx)  # a request that was sent while the model loaded was not checked
        options = {"add_special": generation.add_bos, "parse_special": generation.parse_special}
        return encoded(self._tokenizer, text, generation.cuts, **options)
