"""How many replicas there are: one on each box, a fixed number, or as many as the queue asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgellm.errors import UsageError
from edgellm_ray.node import BOX

if TYPE_CHECKING:
    from edgellm.server.activity import AnswerSpeed

# A burst gets its second replica within seconds; one replica less only after a minute without need, so that the number
# does not swing.
UPSCALE_S = 3.0
DOWNSCALE_S = 60.0
# Where a box left, one replica less is wanted. Ray must have seen by then whose box it was: it would end another one.
LEFT_S = 10.0
MOST_BOXES = 1024
MOST_WAIT_S = 1.0  # predicted, until a request gets a slot: where it is longer, one replica more is wanted
ROOM = "edgellm_room"  # what each replica tells the policy: requests that it holds without a longer wait


class Replicas(NamedTuple):
    """From `low` to `high`; both 0 = one on each box."""

    low: int
    high: int

    @classmethod
    def of(cls, text: str) -> Replicas:
        """Of "boxes", "3" or "1:8".

        Raises:
            UsageError: it is none of them.
        """
        if text == "boxes":
            return cls(0, 0)
        match = re.fullmatch(r"([0-9]{1,4})(?::([0-9]{1,4}))?", text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= MOST_BOXES:
            hint = f"write boxes, a number, or MIN:MAX from 1 to {MOST_BOXES}"
            raise UsageError(f"--replicas {text} is no number of replicas", hint=hint, param="replicas")
        return cls(low, high)

    def options(self, downscale_s: float = DOWNSCALE_S, without: Sequence[str] = ()) -> dict[str, Any]:
        """Options of a deployment. `downscale_s`: without need, until a replica of MIN:MAX leaves. `without`: ids of
        nodes that have no room for one."""
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

        if self == (0, 0):
            policy = AutoscalingPolicy(
                policy_function="edgellm_ray.scaling:EveryBox", policy_kwargs={"without": list(without)}
            )
            scaling = AutoscalingConfig(
                min_replicas=1, max_replicas=MOST_BOXES, upscale_delay_s=0, downscale_delay_s=LEFT_S, policy=policy
            )
        elif self.low == self.high:
            return {"num_replicas": self.low}
        else:
            scaling = AutoscalingConfig(
                min_replicas=self.low,
                max_replicas=self.high,
                upscale_delay_s=UPSCALE_S,
                downscale_delay_s=downscale_s,
                metrics_interval_s=1.0,
                look_back_period_s=UPSCALE_S,
                policy=AutoscalingPolicy(policy_function="edgellm_ray.scaling:by_wait"),
            )
        return {"autoscaling_config": scaling}


class EveryBox:
    """A policy of Ray Serve: as many replicas as there are boxes, but for those with the ids `without`. Where the last
    one left, one waits for the next."""

    def __init__(self, without: Sequence[str] = ()) -> None:
        self._without = frozenset(without)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        import ray

        boxes = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(BOX, 0) > 0}
        return max(1, len(boxes - self._without)), context.policy_state


def by_wait(context: Any) -> tuple[float, dict[str, Any]]:
    """A policy of Ray Serve: as many replicas as keep the predicted wait short. Ray applies bounds and delays."""
    rooms = tuple(context.aggregated_metrics.get(ROOM, {}).values())
    return wanted(context.total_num_requests, rooms, context.target_num_replicas), context.policy_state


def wanted(n_requests: float, rooms: Sequence[float], n_replicas: int) -> float:
    """How many replicas hold so many requests with no longer wait than MOST_WAIT_S.

    Args:
        n_requests: that replicas have, and that wait for one.
        rooms: of the replicas that said so; a fresh one counts as their mean.
        n_replicas: what is wanted until now, and stays so before any said so.
    """
    return n_requests * len(rooms) / sum(rooms) if sum(rooms) > 0 else float(n_replicas)


def room(n_slots: int, answers: Sequence[AnswerSpeed]) -> float:
    """Requests that a replica holds so that the last of them waits MOST_WAIT_S for a slot, by its measured rates.

    All slots busy, one is free each T / n_slots seconds, where T is how long an answer takes: behind n requests one
    waits (n - n_slots) T / n_slots. Before any answer T counts as without end, so that each request has a slot.
    """
    seconds = [_busy_s(answer) for answer in answers]
    answer_s = sum(seconds) / len(seconds) if seconds else 0.0
    return n_slots * (1 + MOST_WAIT_S / answer_s) if answer_s > 0 else float(n_slots)


def _busy_s(answer: AnswerSpeed) -> float:
    """How long the answer had a slot."""
    computed = answer.prompt_tokens - answer.cached_tokens
    reading = computed / answer.prefill_tok_s if answer.prefill_tok_s > 0 else 0.0
    return reading + (answer.completion_tokens / answer.decode_tok_s if answer.decode_tok_s > 0 else 0.0)
