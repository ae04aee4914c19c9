"""How rows of logits are compared, for all parts of a backend's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm.testing.shared import SharedEngine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine


class RowTests(SharedEngine):
    """`tolerance`: see `edgellm.testing.BackendContract`."""

    tolerance: ClassVar[float] = 0.0

    def allowed(self, engine: Engine) -> float:
        """The largest difference between logits that count as the same."""
        return 0.0 if engine.info.batch_invariant else self.tolerance

    def assert_same(
        self, one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], engine: Engine, what: str
    ) -> None:
        """Equal within the tolerance; bit for bit where the engine promises it. `what` is compared, in words."""
        __tracebackhide__ = True
        difference, allowed = largest_difference(one, other), self.allowed(engine)
        assert difference <= allowed, f"logits differ by {difference:g}, allowed is {allowed:g}: {what}"

    def assert_differ(
        self,
        one: npt.NDArray[np.float32],
        other: npt.NDArray[np.float32],
        engine: Engine,
        what: str,
        so: str = "the order of rows cannot be proved",
    ) -> None:
        """Rows that are all alike would hide that one stands in the place of another."""
        __tracebackhide__ = True
        difference, allowed = largest_difference(one, other), self.allowed(engine)
        assert difference > allowed, (
            f"logits are the same (they differ by {difference:g}) {what}, so {so}: "
            "test with a model that predicts different tokens there"
        )


def largest_difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Of a logit in one and in the other."""
    return float(abs(one - other).max())
