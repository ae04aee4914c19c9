"""How many replicas there are: one on each box, a fixed number, or as many as the queue asks for."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from edgellm.errors import UsageError
from edgellm_ray.node import BOX

# A burst gets its second replica within seconds; one replica less only after a minute without need, so that the number
# does not swing.
UPSCALE_S = 3.0
DOWNSCALE_S = 60.0
MOST_BOXES = 1024


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

    def options(self, target_ongoing: float) -> dict[str, Any]:
        """Options of a deployment. `target_ongoing`: requests that a replica should have at a time."""
        from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

        if self == (0, 0):
            policy = AutoscalingPolicy(policy_function="edgellm_ray.scaling:every_box")
            scaling = AutoscalingConfig(
                min_replicas=1, max_replicas=MOST_BOXES, upscale_delay_s=0, downscale_delay_s=0, policy=policy
            )
        elif self.low == self.high:
            return {"num_replicas": self.low}
        else:
            scaling = AutoscalingConfig(
                min_replicas=self.low,
                max_replicas=self.high,
                target_ongoing_requests=target_ongoing,
                upscale_delay_s=UPSCALE_S,
                downscale_delay_s=DOWNSCALE_S,
                metrics_interval_s=1.0,
                look_back_period_s=UPSCALE_S,
            )
        return {"autoscaling_config": scaling}


def every_box(context: Any) -> tuple[int, dict[str, Any]]:
    """A policy of Ray Serve: as many replicas as there are boxes. Where the last one left, one waits for the next."""
    import ray

    n_boxes = sum(node["Alive"] and node["Resources"].get(BOX, 0) > 0 for node in ray.nodes())
    return max(1, n_boxes), context.policy_state
