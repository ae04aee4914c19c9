"""What comes of a row of logits: the next token of an answer, those that its grammar forces, and its end."""

from __future__ import annotations

from edgellm.contract.engine import EngineInfo, Tokenizer
from edgellm.runtime.engine_check import check_piece
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.text.sampling import LogitRow
from edgellm.types.event import FinishReason


class Drawing:
    """For one model. `backend`: the name that errors give the engine."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, scheduler: Scheduler, backend: str) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._scheduler = scheduler
        self._backend = backend

    def draw(self, request: RequestState, row: LogitRow) -> FinishReason | None:
        """Take the token that is drawn from `row`, and those that the grammar leaves no choice about.

        Returns why the answer ended; None where it goes on, and then `request.next_tokens` are to be computed.

        Raises:
            GrammarFailed, ValueError: as `Sampler.sample` and `Matcher.accept` do.
            BackendError: the engine spells a token as something else than bytes.
        """
        tokens: list[int] = []
        token = request.sampler.sample(row, request.matcher)
        if not self._ends(request, token):
            request.note_logprob(row, token, self._tokenizer.token_bytes)
        reason = self._take(request, token, tokens)
        # Only what is drawn has a row of logits.
        if reason is None and request.matcher is not None and request.generation.top_logprobs is None:
            for forced in request.matcher.forced():
                request.sampler.accept(forced)
                reason = self._take(request, forced, tokens)
                if reason is not None:
                    break
        request.next_tokens = tuple(tokens) if reason is None else ()
        return reason

    def _ends(self, request: RequestState, token: int) -> bool:
        return token in self._info.eos_ids and not request.generation.ignore_eos

    def _take(self, request: RequestState, token: int, tokens: list[int]) -> FinishReason | None:
        """What a token means: text, which adds it to `tokens`, or the end."""
        if self._ends(request, token):
            return "stop"
        if request.matcher is not None:
            request.matcher.accept(token)
        tokens.append(token)
        request.n_generated += 1
        request.n_pending += 1
        piece = check_piece(self._backend, token, self._tokenizer.token_bytes(token))
        request.pending_text += request.text.push(piece)
        if request.text.stopped or (request.matcher is not None and request.matcher.complete):
            return "stop"
        if request.n_generated >= request.limit or self._scheduler.room(request) < len(tokens):
            return "length"
        return None
