"""An error as data: how a child process tells what it would have raised."""

from __future__ import annotations

import msgspec

from edgellm import errors


class Failed(msgspec.Struct, tag=True, frozen=True):
    """`error` makes of it what `of` was given."""

    code: str
    message: str
    hint: str = ""
    numbers: dict[str, int] = {}
    texts: dict[str, str] = {}

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        if not isinstance(error, errors.EdgeLLMError):
            return cls("backend_error", f"{type(error).__name__}: {error}")
        numbers = {name: value for name, value in vars(error).items() if isinstance(value, int)}
        own = ("message", "hint")
        texts = {name: value for name, value in vars(error).items() if isinstance(value, str) and name not in own}
        return cls(error.code, error.message, error.hint, numbers, texts)

    def error(self) -> errors.EdgeLLMError:
        """The exception this message stands for, its attributes included."""
        error = errors.by_code(self.code)(self.message, hint=self.hint)
        for name, value in {**self.numbers, **self.texts}.items():
            setattr(error, name, value)
        return error
