"""Who has stored files open: a server that runs a model maps its file, and could not load it again without it."""

from __future__ import annotations

from pathlib import Path


def holders(folder: Path) -> list[int]:
    """Processes that have a file below `folder` open or mapped, as far as this user may look."""
    import psutil

    inside = f"{folder.resolve().as_posix()}/"
    pids: list[int] = []
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()]
            # Where a system does not tell what is mapped (macOS), only what is open counts.
            if hasattr(process, "memory_maps"):
                paths += [mapped.path for mapped in process.memory_maps()]
        except (psutil.Error, OSError):  # of another user, or gone
            continue
        if any(Path(path).as_posix().startswith(inside) for path in paths):
            pids.append(process.pid)
    return pids
