"""Tokens asked of a loaded model: `EdgeLLM.tokenize`, `detokenize`, `pieces` and `count_tokens`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TypeVar, Unpack

from edgellm.errors import UsageError
from edgellm.runtime.long_text import LONG_TEXT
from edgellm.sdk.asking import aask_all, ask_all, of_kind
from edgellm.sdk.chat_request import RequestMethods
from edgellm.sdk.conversation import Messages
from edgellm.sdk.deadline import Deadline
from edgellm.types.event import Pieces, Tokens
from edgellm.types.request import MAX_IDS, ChatKeywords, DetokenizeRequest, GenerationRequest, TokenizeRequest

SizedT = TypeVar("SizedT", bound=Sized)
SHORTER = "send less at a time"
_tokens, _pieces = of_kind(Tokens), of_kind(Pieces)


class TokenMethods(RequestMethods):
    """The methods of `EdgeLLM` that turn text into tokens and back. Thread-safe."""

    def tokenize(
        self, text: str, *, special: bool = False, add_bos: bool = False, timeout: float | None = None
    ) -> list[int]:
        """The tokens that the model reads a text as.

        Args:
            special: whether special tokens that are written in it ("<|im_end|>") are tokens; else they are text.
            add_bos: with those that the model wants around a prompt.
            timeout: seconds within which they must come.

        Raises:
            UsageError: more text than is read at a time (128 bytes for each token of the context); TimedOut;
            WorkerCrashed.
        """
        request = TokenizeRequest(text, parse_special=special, add_bos=add_bos)
        return list(ask_all(self._session, [request], _tokens, _deadline(timeout))[0].ids)

    async def atokenize(
        self, text: str, *, special: bool = False, add_bos: bool = False, timeout: float | None = None
    ) -> list[int]:
        """As `tokenize`, for coroutines."""
        request = TokenizeRequest(text, parse_special=special, add_bos=add_bos)
        return list((await aask_all(self._session, [request], _tokens, _deadline(timeout)))[0].ids)

    def detokenize(self, ids: Sequence[int], *, timeout: float | None = None) -> str:
        """The text of tokens, in which control tokens are written as a template writes them.

        Bytes that are no UTF-8, such as half a character at the end, are replaced. Models with SentencePiece may begin
        it with a blank. Raises as `pieces` does.
        """
        return _text(self.pieces(ids, timeout=timeout))

    async def adetokenize(self, ids: Sequence[int], *, timeout: float | None = None) -> str:
        """As `detokenize`, for coroutines."""
        return _text(await self.apieces(ids, timeout=timeout))

    def pieces(self, ids: Sequence[int], *, timeout: float | None = None) -> list[bytes]:
        """What each token adds to a text, which may be a part of a character.

        Raises:
            UsageError: there is no such token; TimedOut; WorkerCrashed.
        """
        deadline = _deadline(timeout)
        # One after another: what others ask meanwhile comes in between.
        return _together([ask_all(self._session, [one], _pieces, deadline)[0] for one in _requests(ids)])

    async def apieces(self, ids: Sequence[int], *, timeout: float | None = None) -> list[bytes]:
        """As `pieces`, for coroutines."""
        deadline = _deadline(timeout)
        return _together([(await aask_all(self._session, [one], _pieces, deadline))[0] for one in _requests(ids)])

    def count_tokens(
        self,
        messages: Messages | GenerationRequest,
        *,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> int:
        """How many tokens the model reads before it answers: `usage.prompt_tokens` of `chat` with the same arguments.

        Args:
            messages: a conversation, or a request as it stands.
            options: as of `chat`; tools and thinking are a part of the prompt.

        Raises:
            BadTemplate, ContextOverflow (it has more bytes than any tokens of the context), UsageError, TimedOut,
            WorkerCrashed.
        """
        request = self._counted(messages, options)
        if not isinstance(request.prompt, str):
            return len(request.prompt)
        batch = [TokenizeRequest.of_prompt(request.prompt, request)]
        return len(ask_all(self._session, batch, _tokens, _deadline(timeout))[0].ids)

    async def acount_tokens(
        self,
        messages: Messages | GenerationRequest,
        *,
        timeout: float | None = None,
        **options: Unpack[ChatKeywords],
    ) -> int:
        """As `count_tokens`, for coroutines."""
        request = (
            messages if isinstance(messages, GenerationRequest) else await self._aasked(messages, options, "timeout")
        )
        if not isinstance(request.prompt, str):
            return len(request.prompt)
        batch = [TokenizeRequest.of_prompt(request.prompt, request)]
        return len((await aask_all(self._session, batch, _tokens, _deadline(timeout)))[0].ids)

    def _counted(self, messages: Messages | GenerationRequest, options: ChatKeywords) -> GenerationRequest:
        return messages if isinstance(messages, GenerationRequest) else self._asked(messages, options, "timeout")


def tokenize_each(model: TokenMethods, texts: Iterable[str]) -> Iterator[list[int]]:
    """`tokenize` of each. As many are asked for together as are read in one step, as each answer takes one."""
    for portion in _portions(texts, LONG_TEXT):
        batch = [TokenizeRequest(text) for text in portion]
        yield from (list(tokens.ids) for tokens in ask_all(model._session, batch, _tokens, _deadline(None)))


def _portions(items: Iterable[SizedT], most: int) -> Iterator[list[SizedT]]:
    """Lists of them that are no longer together, but for one that is alone."""
    portion: list[SizedT] = []
    n = 0
    for item in items:
        if portion and n + len(item) > most:
            yield portion
            portion, n = [], 0
        portion.append(item)
        n += len(item)
    if portion:
        yield portion


def _deadline(timeout: float | None) -> Deadline:
    return Deadline(timeout, late="the tokens did not come within {} s, and the request was ended", instead=SHORTER)


def _requests(ids: Sequence[int]) -> list[DetokenizeRequest]:
    try:
        every = tuple(ids)
    except TypeError:
        raise UsageError("these are not token ids", hint="send a list of numbers", param="ids") from None
    return [DetokenizeRequest(every[at : at + MAX_IDS]) for at in range(0, len(every), MAX_IDS)]


def _together(answers: Sequence[Pieces]) -> list[bytes]:
    return [piece for answer in answers for piece in answer.pieces]


def _text(pieces: Sequence[bytes]) -> str:
    return b"".join(pieces).decode("utf-8", "replace")
