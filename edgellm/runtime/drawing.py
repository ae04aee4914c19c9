"""What comes of a row of logits: the next token of an answer, those that must follow it, and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from edgellm.contract.engine import EngineInfo, Tokenizer
from edgellm.errors import UsageError
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.runtime.thought import Thoughts
from edgellm.text.mask_thread import MaskThread
from edgellm.text.sampling import LogitRow, SameDraw
from edgellm.types.event import FinishReason


class Drawing:
    """For one model."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, scheduler: Scheduler) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._scheduler = scheduler
        self._thoughts = Thoughts(tokenizer)
        self._masks = MaskThread()

    def draw(self, request: RequestState, row: LogitRow, same: SameDraw | None = None) -> FinishReason | None:
        """Take the token that is drawn from `row`, and those that must follow it. `same`: of all choices that do.

        Returns why the answer ended; None where it goes on, and then `request.next_tokens` are to be computed.

        Raises:
            GrammarFailed, ValueError: as `Sampler.sample` and `Matcher.accept` do.
            BackendError: the engine spells a token as something else than bytes.
        """
        tokens: list[int] = []
        is_due = self._is_due(request, lambda: int(row.argmax()))
        token = request.due.popleft() if is_due else request.sampler.sample(row, request.gate, same)
        if is_due:
            request.sampler.accept(token)
        elif self._ends(request, token):
            return "stop"
        request.note_logprob(row, token, self._tokenizer.token_bytes)
        reason = self._take_on(request, token, tokens, is_due=is_due)
        request.next_tokens = tuple(tokens) if reason is None else ()
        if reason is None and not self._is_plain(request) and (gate := request.gate) is not None:
            self._masks.start(gate)
        return reason

    def repeat(self, request: RequestState) -> FinishReason | None:
        """Take the tokens that the answer begins with as they were drawn elsewhere, and those that must follow them.
        They are then a part of the prompt.

        Returns why the answer ended with them; None where it goes on.

        Raises:
            UsageError: no answer to this request begins so. GrammarFailed, BackendError: as `draw`.
        """
        begun = request.generation.continuation
        given = begun.tokens if begun is not None else ()
        tokens: list[int] = []
        reason: FinishReason | None = None
        while reason is None and len(tokens) < len(given):
            token = given[len(tokens)]
            if is_due := self._is_due(request, partial(int, token)):
                token = request.due.popleft()
                request.sampler.accept(token)
            else:
                request.sampler.repeat(token)
            reason = self._take_on(request, token, tokens, is_due=is_due)
        if tuple(tokens[: len(given)]) != given:
            hint = "continue only what the same model began, for the same request"
            raise UsageError("no answer to this request begins with these tokens", hint=hint, param="continuation")
        request.goes_on_behind(tokens)
        return reason

    def end(self) -> None:
        """No token is drawn any more."""
        self._masks.end()

    def _is_due(self, request: RequestState, likeliest: Callable[[], int]) -> bool:
        """Whether the next token comes whatever is likely, and is in `request.due`."""
        if request.reads and not request.due:
            request.due.extend(self._thoughts.opening(request, likeliest) or self._thoughts.ending(request))
        return bool(request.due)

    def _is_plain(self, request: RequestState) -> bool:
        """Whether no token must ever follow another."""
        return request.matcher is None and not request.reads

    def _take_on(self, request: RequestState, token: int, tokens: list[int], *, is_due: bool) -> FinishReason | None:
        """Take `token` and those that must follow it, which are added to `tokens`."""
        reason = self._take(request, token, tokens, is_due=is_due)
        # Only what is drawn has a row of logits: where they are asked for, what must follow comes one by one.
        if reason is None and not self._is_plain(request) and request.generation.top_logprobs is None:
            reason = self._go_on(request, tokens)
        return reason

    def _go_on(self, request: RequestState, tokens: list[int]) -> FinishReason | None:
        if request.reads:
            due = [*request.due, *self._thoughts.ending(request)]
            request.due.clear()
            if (reason := self._take_all(request, due, tokens, are_due=True)) is not None:
                return reason
        gate = request.gate
        return None if gate is None else self._take_all(request, gate.forced(), tokens, are_due=False)

    def _take_all(
        self, request: RequestState, following: Iterable[int], tokens: list[int], *, are_due: bool
    ) -> FinishReason | None:
        for token in following:
            request.sampler.accept(token)
            if (reason := self._take(request, token, tokens, is_due=are_due)) is not None:
                return reason
        return None

    def _ends(self, request: RequestState, token: int) -> bool:
        return token in self._info.eos_ids and not request.generation.ignore_eos

    def _take(self, request: RequestState, token: int, tokens: list[int], *, is_due: bool) -> FinishReason | None:
        """What a token means: a part of the answer, which adds it to `tokens`, or the end. `is_due`: whatever it is."""
        if not is_due and self._ends(request, token):
            return "stop"
        if request.matcher is not None and not is_due and (gate := request.gate) is not None:
            gate.accept(token)
        tokens.append(token)
        piece = self._tokenizer.token_bytes(token)
        request.take(token, piece or self._thoughts.marker(request, token))
        if request.text.stopped or (request.matcher is not None and request.matcher.complete):
            return "stop"
        if request.n_generated >= request.limit or self._scheduler.room(request) < len(tokens):
            return "length"
        return None
