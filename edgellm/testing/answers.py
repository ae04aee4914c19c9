"""The part of a backend's contract that is about answers: requests that go through the runtime."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from edgellm.contract.engine import SlotInput
from edgellm.errors import EdgeLLMError
from edgellm.testing.limit import limited
from edgellm.testing.prefixes import forked
from edgellm.testing.rows import RowTests
from edgellm.testing.running import Counted, Running
from edgellm.testing.tokens import TEXTS, last_row
from edgellm.text.prompt import PromptBuilder
from edgellm.types.continuation import Continuation
from edgellm.types.event import Delta, Done
from edgellm.types.grammar import Grammar
from edgellm.types.message import Message
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

if TYPE_CHECKING:
    from edgellm.contract.engine import Engine


@limited
class AnswerTests(RowTests):
    """The fixture `engine` is the class's own."""

    def test_answers_share_the_prompt(self, engine: Engine) -> None:
        """Four answers to one prompt, on three slots: it is read once, and each answer is what it is alone."""
        forks, counted = _forks(engine), Counted(engine)
        request = GenerationRequest(TEXTS[0], Sampling(temperature=0), max_tokens=3, ignore_eos=True, n=4)
        n_prompt = len(engine.tokenizer.encode(TEXTS[0], add_special=True, parse_special=True))
        with Running(counted, self.limit_s / 2) as running:
            answers = running.choices(request)
        texts = ["".join(delta.text for delta in deltas) for deltas in answers]
        if not self.allowed(engine):
            assert len(set(texts)) == 1, f"the likeliest answers to one prompt differ: {texts}"
        if not forks:
            pytest.skip("does not apply: fork returns 0, so each answer reads the prompt again")
        again = 1 if engine.info.rewind_tokens is None else 2  # the fourth waits for a slot, which has to go back
        assert counted.n_tokens <= again * n_prompt + 4 * 2, (
            f"{counted.n_tokens} tokens were computed: the prompt has {n_prompt}, four answers of 3 tokens need 8 more"
        )

    def test_an_answer_goes_on_behind_its_first_tokens(self, engine: Engine) -> None:
        """They are read with the prompt. What follows is what it was, to the token where a batch changes nothing."""
        sampling = Sampling(temperature=1.0, seed=3)
        request = GenerationRequest(TEXTS[0], sampling, max_tokens=8, ignore_eos=True, continuation=Continuation())
        with Running(engine, self.limit_s / 2) as running:
            whole = [token for delta in running.answer(request) for token in delta.tokens]
            for n in (1, 5):
                begun = msgspec.structs.replace(request, continuation=Continuation(tuple(whole[:n])))
                tokens = [token for delta in running.answer(begun) for token in delta.tokens]
                assert tokens[:n] == whole[:n], f"an answer that begins with {whole[:n]} begins with {tokens[:n]}"
                assert self.allowed(engine) or tokens == whole, f"behind {n} tokens of {whole} comes {tokens[n:]}"

    def test_a_chat_becomes_a_prompt(self, engine: Engine) -> None:
        """A template that is broken is met by the first chat only."""
        if engine.info.chat_template is None:
            pytest.skip("does not apply: info.chat_template is None")
        try:
            prompt = PromptBuilder(engine.info).build([Message("user", TEXTS[0])]).text
        except EdgeLLMError as error:
            pytest.fail(f"info.chat_template of one message: {error.message}", pytrace=False)
        assert TEXTS[0] in prompt, f"info.chat_template writes {prompt!r} of a message {TEXTS[0]!r}"

    def test_an_answer_keeps_to_its_grammar(self, engine: Engine) -> None:
        pytest.importorskip("llguidance", reason="does not apply: llguidance is not installed")
        choices = ["yes", "no", "certainly not"]
        grammar = Grammar("choice", json.dumps(choices))
        with Running(engine, self.limit_s / 2) as running:
            for seed in range(3):
                sampling = Sampling(temperature=1.5, seed=seed)
                deltas = running.answer(GenerationRequest(TEXTS[0], sampling, grammar=grammar))
                text = "".join(delta.text for delta in deltas)
                assert text in choices, f"an answer that must be one of {choices} is {text!r}"

    def test_logprobs_are_those_of_its_logits(self, engine: Engine) -> None:
        """Against softmax over the rows that the same tokens give by themselves."""
        import numpy as np

        request = GenerationRequest(
            TEXTS[0][:20], Sampling(temperature=0), max_tokens=3, ignore_eos=True, top_logprobs=2
        )
        with Running(engine, self.limit_s / 2) as running:
            told = [token for delta in running.answer(request) for token in delta.logprobs]
        assert len(told) == 3, f"an answer of 3 tokens has {len(told)} logprobs"
        tokens, n_past = engine.tokenizer.encode(str(request.prompt), add_special=True, parse_special=True), 0
        for token in told:
            row = last_row(engine, 1, tokens, n_past).astype(np.float64)
            reference = row - row.max() - np.log(np.exp(row - row.max()).sum())
            for one in (token.chosen, *token.top):
                difference = abs(one.logprob - max(reference[one.token], -9999.0))
                allowed = 1e-5 + 2 * self.allowed(engine)
                assert difference <= allowed, f"the logprob of token {one.token} differs by {difference:g}"
            tokens, n_past = [*tokens, token.chosen.token], len(tokens)

    def test_a_cancelled_request_frees_its_slot(self, engine: Engine) -> None:
        """All slots busy for ever, all cancelled: the next request is answered."""
        with Running(engine, self.limit_s / 2) as running:
            endless = GenerationRequest(TEXTS[0], Sampling(temperature=0), ignore_eos=True)
            ids = [running.submit(endless) for _ in range(engine.info.n_slots)]
            running.wait_for(Delta, ids[0])
            for request_id in ids:
                running.cancel(request_id)
            last = running.submit(msgspec.structs.replace(endless, max_tokens=2))
            n_tokens = running.wait_for(Done, last).usage.completion_tokens
            assert n_tokens == 2, f"an answer of max_tokens=2 has {n_tokens} tokens"


def _forks(engine: Engine) -> bool:
    tokens = tuple(engine.tokenizer.encode(TEXTS[0], add_special=True, parse_special=True)[:2])
    engine.step([SlotInput(0, 0, tokens, 0)])
    n_kept = forked(engine, 0, 1, 1)
    for slot in (0, 1):
        engine.truncate(slot, 0)
    return n_kept > 0
