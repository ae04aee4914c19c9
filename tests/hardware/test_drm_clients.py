"""What the kernel tells of programs that have a graphics device open: as i915, xe and amdgpu write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware import gpu_load
from edgellm.hardware.linux import drm_clients
from edgellm.hardware.linux.sysfs import SysRoot

SECOND = 10**9
I915 = """pos:\t0
flags:\t02100002
mnt_id:\t28
ino:\t1161
drm-driver:\ti915
drm-client-id:\t{client}
drm-pdev:\t0000:00:02.0
drm-total-system0:\t46792 KiB
drm-engine-render:\t{render} ns
drm-engine-copy:\t999999999999 ns
drm-engine-video:\t{video} ns
drm-engine-capacity-video:\t2
drm-engine-compute:\t{compute} ns
drm-engine-capacity-compute:\t4
"""
XE = """drm-driver:\txe
drm-client-id:\t{client}
drm-pdev:\t0000:03:00.0
drm-total-vram0:\t9 MiB
drm-cycles-rcs:\t{rcs}
drm-total-cycles-rcs:\t{total}
drm-cycles-bcs:\t{total}
drm-total-cycles-bcs:\t{total}
drm-cycles-ccs:\t{ccs}
drm-total-cycles-ccs:\t{total}
drm-engine-capacity-ccs:\t4
"""
Trees = Callable[[dict[str, str]], SysRoot]


def i915(client: int, render: int, compute: int = 0) -> str:
    return I915.format(client=client, render=render, compute=compute, video=8 * render)


@pytest.fixture
def tree(tmp_path: Path) -> Trees:
    """Files below `/proc`, in a folder of their own."""
    counted = iter(range(9))

    def write(files: dict[str, str]) -> SysRoot:
        root = tmp_path / str(next(counted))
        for name, text in files.items():
            path = root / "proc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        return SysRoot(root)

    return write


def test_programs_on_one_engine_add_up_and_the_busiest_engine_counts(tree: Trees) -> None:
    before = tree({"7/fdinfo/4": i915(1, 5 * SECOND, 8 * SECOND), "9/fdinfo/3": i915(2, SECOND)})
    after = tree({
        "7/fdinfo/4": i915(1, 5 * SECOND + SECOND // 4, 9 * SECOND), "9/fdinfo/3": i915(2, SECOND + SECOND // 2),
    })  # fmt: skip
    shares = drm_clients.shares(drm_clients.read(before, SECOND), drm_clients.read(after, 2 * SECOND))
    # Rendering for 0.25 and 0.5 s; of four engines that compute one was busy; videos and copies use other ones.
    assert shares == {"0000:00:02.0": 0.75}


def test_one_client_in_two_files_counts_once(tree: Trees) -> None:
    """A descriptor that was duplicated, or inherited."""
    before = tree({"7/fdinfo/4": i915(1, 0), "7/fdinfo/5": i915(1, 0), "8/fdinfo/4": i915(1, 0)})
    after = tree({f"{place}/fdinfo/4": i915(1, SECOND // 2) for place in (7, 8)})
    shares = drm_clients.shares(drm_clients.read(before, 0), drm_clients.read(after, SECOND))
    assert shares == {"0000:00:02.0": 0.5}


def test_cycles_are_compared_with_those_that_passed(tree: Trees) -> None:
    """Of four engines that compute each was busy half of the time."""
    before = tree({"7/fdinfo/4": XE.format(client=3, rcs=10, ccs=100, total=1000)})
    after = tree({"7/fdinfo/4": XE.format(client=3, rcs=110, ccs=2100, total=2000)})
    since = gpu_load.begin(before)
    assert gpu_load.busiest({"0000:03:00.0"}, since, after) == 0.5
    assert gpu_load.busiest({""}, since, after) == 0.5  # which one is not known
    assert gpu_load.busiest({"0000:00:02.0"}, since, after) is None


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="nobody has it open"),
        pytest.param({"7/fdinfo/4": "pos:\t0\nflags:\t02\n"}, id="a file"),
        pytest.param({"7/fdinfo/4": i915(1, 0).replace("drm-client-id", "drm-client")}, id="no client"),
        pytest.param({"7/fdinfo/4": i915(8, SECOND)}, id="came in between"),
        pytest.param({"7/fdinfo/4": i915(1, SECOND), "self/fdinfo/4": i915(2, SECOND)}, id="counts that went back"),
        pytest.param({"7/fdinfo/4": i915(1, SECOND).replace(" ns", "0" * 40)}, id="no counts"),
    ],
)
def test_what_cannot_be_compared_tells_nothing(tree: Trees, files: dict[str, str]) -> None:
    before = tree({"7/fdinfo/4": i915(1, 2 * SECOND, 1)})
    assert drm_clients.shares(drm_clients.read(before, 0), drm_clients.read(tree(files), SECOND)) == {}
