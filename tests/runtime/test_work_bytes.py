"""What a file says of its length gives a worker no more time than the plan's memory could be filled in."""

import psutil

from edgellm.runtime.watchdog import limits
from edgellm.runtime.work_bytes import work_bytes
from edgellm.types.model import Artifact
from edgellm.types.plan import Footprint, LaunchPlan, Settings

FOOTPRINT = Footprint(weights_bytes=10**9, kv_bytes=10**8, compute_bytes=0, process_bytes=0)


def plan(n_bytes, footprint=None):
    return LaunchPlan("m", Artifact("onnx", (), "m", bytes=n_bytes), Settings(n_ctx=64), footprint=footprint)


def test_the_files_bytes_count_as_far_as_memory_holds_them():
    assert work_bytes(plan(10**9, FOOTPRINT)) == 10**9
    assert work_bytes(plan(4 * 10**12, FOOTPRINT)) == 11 * 10**8
    assert work_bytes(plan(4 * 10**12)) == psutil.virtual_memory().total


def test_the_limit_of_a_load_is_of_these():
    assert limits(plan(4 * 10**12, FOOTPRINT), None) == limits(plan(11 * 10**8, FOOTPRINT), None)
