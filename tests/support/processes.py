"""What a program started: the processes of models among its children."""

from __future__ import annotations

import psutil


def workers(pid: int | None = None) -> set[psutil.Process]:
    """The workers below a process; None = this one. The process of a chat template is none."""
    children = psutil.Process(pid).children(recursive=True)
    return {child for child in children if "edgellm.runtime.worker" in child.cmdline()}
