"""How many replicas a queue asks for, by what was measured of answers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from edgellm_ray.scaling import MOST_WAIT_S, ROOM, Replicas, by_wait, room, wanted
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.server.activity import AnswerSpeed


def answer(*, tokens: int, tok_s: float, reading_tok_s: float = 50.0) -> AnswerSpeed:
    return AnswerSpeed(
        ended=0.0, prompt_tokens=100, cached_tokens=50, completion_tokens=tokens, queued_s=9.0,
        prefill_tok_s=reading_tok_s, decode_tok_s=tok_s,
    )  # fmt: skip


def test_room_is_what_waits_no_longer_than_a_slot_takes_to_be_free() -> None:
    """Answers of 5 s, and 4 slots: one is free each 1.25 s."""
    n = room(4, [answer(tokens=40, tok_s=10.0)] * 3)

    assert (n - 4) * 5.0 / 4 == pytest.approx(MOST_WAIT_S)
    assert room(4, []) == 4
    assert room(4, [answer(tokens=4, tok_s=10.0)]) > n


@pytest.mark.parametrize(
    ("n_requests", "rooms", "replicas"),
    [(0, [4.8], 0.0), (4.8, [4.8], 1.0), (9.6, [4.8], 2.0), (9.6, [4.8, 4.8], 2.0), (40, [4, 16], 4.0)],
)
def test_replicas_follow_requests_over_room(n_requests: float, rooms: list[float], replicas: float) -> None:
    """Boxes that are twice as fast hold more, so fewer are wanted."""
    assert wanted(n_requests, rooms, 1) == pytest.approx(replicas)


def test_the_number_stays_before_any_replica_said_what_it_holds() -> None:
    assert wanted(50, [], 3) == 3.0


def test_long_answers_ask_for_replicas_that_short_ones_do_not() -> None:
    """The same queue at the same number of slots."""

    def asked(answers: list[AnswerSpeed]) -> float:
        context = SimpleNamespace(
            aggregated_metrics={ROOM: {"a": room(2, answers)}}, total_num_requests=6.0, target_num_replicas=1,
            policy_state={},
        )  # fmt: skip
        return by_wait(context)[0]

    assert asked([answer(tokens=1, tok_s=1000.0, reading_tok_s=1000.0)]) <= 1.0
    assert asked([answer(tokens=200, tok_s=10.0)]) > 2.5


@pytest.mark.parametrize("text", ["", "0", "2:1", "-1", "all", "1:2000", "1:2:3"])
def test_what_is_no_number_of_replicas_is_refused(text: str) -> None:
    with refuses(UsageError, param="replicas"):
        Replicas.of(text)
