"""Turns what a request asks for into what the loop runs: the tokens of its prompt, and a matcher for its grammar.

Who only wants to know the tokens of a text gets the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from edgellm.errors import ContextOverflow, UsageError
from edgellm.runtime.long_text import LONG_TEXT
from edgellm.runtime.processor_time import WorkTime
from edgellm.runtime.unsupported_task import unsupported_task
from edgellm.text.cuts import encoded
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.types.event import Pieces, Tokens
from edgellm.types.request import (
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
    TokenRequest,
    check_context,
)

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo, Tokenizer

Answered = Tokens | Pieces


class Begun(NamedTuple):
    """What an answer begins with."""

    generation: GenerationRequest
    prompt: list[int]
    matchers: list[Matcher | None]  # one for each choice


@dataclass(frozen=True, slots=True)
class PromptRead:
    """From the thread that reads long texts and grammars: this one is ready, or was cancelled, or failed."""

    id: int


@dataclass(frozen=True, slots=True)
class TextRead:
    """From the same thread: a text to embed is ready."""


READ = TextRead()

# Of a text that may be far too long: characters of the parts in which it is read first, and tokens that a cut may add.
PART, OF_CUT = 1 << 16, 16
USUAL_LETTERS = 4  # of a token: texts with fewer in all most likely fit, and are not read twice


def takes_long(request: GenerationRequest | TokenRequest, matcher: Matcher | None = None) -> bool:
    """Whether it is to be read in another thread. `matcher`: of its grammar, where there is one already."""
    if isinstance(request, DetokenizeRequest):
        return False  # it has some 10 ms of tokens at most
    compiles = isinstance(request, GenerationRequest) and request.grammar is not None and matcher is None
    return compiles or length(request) > LONG_TEXT


def length(request: GenerationRequest | TokenRequest) -> int:
    """Of what is read of it, in characters, or in tokens where it has those."""
    match request:
        case TokenizeRequest():
            return len(request.text)
        case DetokenizeRequest():
            return len(request.ids)
    return len(request.prompt)


class PromptReader:
    """For one model. `read` and `answer` may run in other threads than the engine."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, work_time: WorkTime | None = None) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._time = work_time or WorkTime()
        self._grammars = GrammarCompiler(tokenizer, info)

    def kept(self, request: GenerationRequest | TokenRequest) -> Matcher | None:
        """For the grammar of `request`, where that was compiled for another."""
        grammar = request.grammar if isinstance(request, GenerationRequest) else None
        return None if grammar is None else self._grammars.kept(grammar)

    def read(self, request: GenerationRequest | TokenRequest, kept: Matcher | None = None) -> Begun | Answered:
        """What an answer begins with; all that is asked for, where that is tokens or their texts. `kept`: see there.

        Raises:
            UsageError: a token that does not exist, no prompt, more text than is counted at a time, or a grammar that
            cannot be used.
            ContextOverflow: the prompt leaves no room for an answer.
            UnsupportedTask: the model writes no text.
            BackendUnavailable: it has a grammar, and the library for them is not installed.
        """
        if not isinstance(request, GenerationRequest):
            return self.answer(request)
        if not self._info.generates:
            raise unsupported_task("chat", self._info)
        prompt, grammar = self._tokens(request), request.grammar
        if grammar is None:
            return Begun(request, prompt, [None] * request.n)
        matcher = partial(self._grammars.matcher, grammar) if kept is None else kept.copy
        return Begun(request, prompt, [self._time.grammar(self._info.vocab_size, matcher) for _ in range(request.n)])

    def answer(self, request: TokenRequest) -> Answered:
        """The tokens of a text, or the texts of tokens. Raises UsageError, as `read`."""
        if isinstance(request, TokenizeRequest):
            return Tokens(tuple(self._encoded(request.text, request)))
        pieces = partial(map, self._piece, self._given(request.ids, "ids"))
        return Pieces(self._time.text(len(request.ids), lambda: tuple(pieces())))

    def prepare(self) -> None:
        """Make what every grammar needs, so that the first one does not wait for it. Raises as `read` does."""
        self._time.grammar(self._info.vocab_size, self._grammars.prepare)

    def text(self, generation: GenerationRequest) -> str:
        """The prompt as text, of tokens too."""
        if isinstance(generation.prompt, str):
            return generation.prompt
        return b"".join(map(self._tokenizer.token_bytes, generation.prompt)).decode("utf-8", "replace")

    def _tokens(self, generation: GenerationRequest) -> list[int]:
        info = self._info
        beyond = [token for token, _ in generation.sampling.logit_bias if token >= info.vocab_size]
        if beyond:
            hint = f"tokens are 0 to {info.vocab_size - 1}"
            raise UsageError(f"logit_bias names token {beyond[0]}", hint=hint, param="logit_bias")
        if isinstance(generation.prompt, str):
            self._check_beginning(generation.prompt, generation)
            prompt = self._encoded(generation.prompt, generation)
        else:
            prompt = self._given(generation.prompt, "prompt")
        if generation.continuation is not None:
            self._given(generation.continuation.tokens, "continuation")
        if not prompt:
            raise UsageError("the prompt has no tokens", hint="send at least one character", param="prompt")
        if len(prompt) >= info.n_ctx:
            raise self._too_long(f"{len(prompt):,}", len(prompt))
        return prompt

    def _check_beginning(self, text: str, generation: GenerationRequest) -> None:
        """Refuse a text that is far too long before all of it is read. It is read in parts for that, whose tokens are
        those of the whole but for a few at each cut; cuts of the request would only add some.

        Raises:
            ContextOverflow: its first parts have twice the tokens of the context.
        """
        check_context(generation, self._info.n_ctx)
        if len(text) <= max(PART, USUAL_LETTERS * self._info.n_ctx):
            return
        n_tokens, most = 0, 2 * self._info.n_ctx
        for start in range(0, len(text), PART):
            part = text[start : start + PART]
            tokens = self._tokenizer.encode(part, add_special=False, parse_special=generation.parse_special)
            n_tokens += max(0, len(tokens) - OF_CUT)
            if n_tokens > most:
                raise self._too_long(f"more than {most:,}", most)

    def _too_long(self, counted: str, n_prompt: int) -> ContextOverflow:
        n_ctx = self._info.n_ctx
        message = f"the prompt has {counted} tokens, the context holds {n_ctx:,}, prompt and answer together"
        return ContextOverflow.of_prompt(message, n_prompt=n_prompt, n_ctx=n_ctx)

    def _given(self, tokens: tuple[int, ...], param: str) -> list[int]:
        beyond = next((token for token in tokens if not 0 <= token < self._info.vocab_size), None)
        if beyond is not None:
            hint = f"tokens are 0 to {self._info.vocab_size - 1}"
            raise UsageError(f"there is no token {beyond}", hint=hint, param=param)
        return list(tokens)

    def _encoded(self, text: str, request: GenerationRequest | TokenizeRequest) -> list[int]:
        check_context(request, self._info.n_ctx)  # one that was sent while the model loaded was not checked
        options = {"add_special": request.add_bos, "parse_special": request.parse_special}
        return encoded(self._tokenizer, text, request.cuts, **options)

    def _piece(self, token: int) -> bytes:
        return self._tokenizer.token_bytes(token) or self._tokenizer.text(token).encode()
