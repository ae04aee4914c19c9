"""How errors name options. A process has one kind of reader: a command says so when it starts; a worker does as the
process that started it.
"""

from __future__ import annotations

_in_flags = False


def option(name: str, value: str | float | None = None) -> str:
    """`--max-memory 2GiB` on the command line, `max_memory="2GiB"` in Python. `name` is the keyword argument's."""
    if _in_flags:
        flag = f"--{name.replace('_', '-')}"
        return flag if value is None or value is True else f"{flag} {_plain(value)}"
    if value is None:
        return name
    return f'{name}="{value}"' if isinstance(value, str) else f"{name}={_plain(value)}"


def loading(model: str) -> str:
    """`edgellm run qwen3-4b`, or `EdgeLLM.load("qwen3-4b")` in Python."""
    return f"edgellm run {model}" if _in_flags else f'EdgeLLM.load("{model}")'


def _plain(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def speaks_in_flags() -> bool:
    return _in_flags


def speak_in_flags(on: bool = True) -> bool:
    """From now on, in this process. Returns how it was before."""
    global _in_flags
    before, _in_flags = _in_flags, on
    return before
