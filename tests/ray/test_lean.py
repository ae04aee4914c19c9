"""What Ray runs on a node besides actors."""

from __future__ import annotations

from collections import Counter

import psutil
from support.ray_cluster import PROFILES, Boxes


def test_a_node_is_one_program_and_the_head_has_one_more(boxes: Boxes) -> None:
    """No dashboard, and none of its agents."""
    boxes.serve("echo")

    commands = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    programs = Counter(command[0].rpartition("/")[2] for command in commands if boxes.folder in " ".join(command))

    assert programs == {"gcs_server": 1, "raylet": 1 + len(PROFILES)}
