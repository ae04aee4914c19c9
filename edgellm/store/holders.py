"""Who has stored files open: a server that runs a model needs its files once more where it loads it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

WORKER = "edgellm.runtime.worker"  # in its command line


def hold(paths: Iterable[str]) -> list[IO[bytes]]:
    """Opens a file of each path, a file or a folder, so that `holders` sees this process as long as it runs.

    Not every engine does that: one that copies its weights closes the file.
    """
    held: list[IO[bytes]] = []
    for path in map(Path, paths):
        inside = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
        with suppress(OSError):  # another user's, or gone meanwhile
            held += [open(file, "rb") for file in inside[:1]]  # noqa: SIM115 - for the life of the process
    return held


@contextmanager
def holding(paths: Iterable[str]) -> Iterator[None]:
    """As `hold`, until the block ends."""
    with ExitStack() as stack:
        for file in hold(paths):
            stack.enter_context(file)
        yield


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


def shown(pid: int) -> str:
    """`edgellm serve (process 812)`: of a worker, the program that started it, which is what its user can end."""
    import psutil

    try:
        process = psutil.Process(pid)
        while WORKER in process.cmdline() and (parent := process.parent()) is not None:
            process = parent
        return f"{_program(process.cmdline()) or process.name()} (process {process.pid})"
    except psutil.Error:  # of another user, or gone
        return f"process {pid}"


def _program(arguments: list[str]) -> str:
    """`edgellm serve`; "" where it is another program."""
    names = [Path(argument).stem for argument in arguments[:2]]
    begin = names.index("edgellm") + 1 if "edgellm" in names else 3 if " ".join(arguments[1:3]) == "-m edgellm" else 0
    return " ".join(["edgellm", *arguments[begin : begin + 1]]) if begin else ""
