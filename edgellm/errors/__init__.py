"""Every error EdgeLLM raises on purpose, drawn once.

    EdgeLLMError                     exit  http
    ├── UsageError                     2   400   the request cannot be understood
    │   ├── UnsupportedField           2   400   a field we know of but do not serve yet
    │   ├── UnknownProfile             2   404   no hardware profile of that name
    │   ├── UnknownModel               2   404   no catalog row, stored model or file of that name
    │   ├── UnknownAdapter             2   404   no adapter of that name is loaded beside the model
    │   ├── BadTemplate                2   400   the model's chat template is broken or hostile
    │   ├── ContextOverflow            2   400   prompt (and answer) longer than the context
    │   ├── GrammarFailed              2   400   an answer cannot be kept to its grammar any longer
    │   └── UnsupportedTask            2   400   the model is of another kind: it cannot generate, embed or rerank
    ├── NothingFits                    3   507   no candidate satisfies the request on this machine
    ├── ArtifactError                  4   422   a model file cannot be used
    │   ├── BadArtifact                4   422   malformed, truncated or lying about itself
    │   ├── UnsupportedArtifact        4   422   well-formed, but this backend or build cannot open it
    │   └── UntrustedBundle            4   422   not signed, or not by the key that was asked for
    │       ├── ExpiredBundle          4   422   signed, but not meant to be used any more
    │       └── OlderBundle            4   422   signed, but older than what is installed
    ├── SourceError                    5   502   a model could not be fetched
    │   ├── SourceUnreachable          5   504   no network, no index, or offline asked for
    │   ├── IntegrityError             5   502   size or hash differs from what was promised
    │   ├── DiskFull                   5   507   not enough room for the download
    │   └── StoreUnwritable            5   507   the store may not be written
    ├── BackendError                   6   500   a backend plugin failed
    │   ├── BackendUnavailable         6   503   it cannot run here, with the reason
    │   ├── CacheFull                  6   503   a step needs more cache cells than there are
    │   └── StepFailed                 6   500   a step failed after touching the cache
    └── RuntimeFailure                 7   500   the worker or the session around it
        ├── WorkerCrashed              7   503   native code died (signal, out of memory)
        │   └── RunawayModel           7   503   and was ended, as the model's files make it compute without end
        ├── Overloaded                 7   503   the waiting queue is full
        │   └── TooManyRequests        7   429   and most of it is this client's
        ├── TimedOut                   7   504   the answer was not there by the caller's deadline
        ├── InvalidAnswer              7   500   the answer is not what the caller's type or schema says
        │   └── IncompleteAnswer       7   500   it was cut off before its end
        ├── TooManyRounds              7   500   the model went on calling tools
        ├── UnfitSlot                  7   500   what a bundle brought does not do here what its plan says
        ├── Unauthorized               7   401   a key is required and was not given
        └── Closed                     7   503   the session was closed while the request waited

Mapping to exit codes and HTTP statuses is by class attribute, never by looking at the text.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from edgellm.errors.flags import loading as loading
from edgellm.errors.flags import option as option
from edgellm.errors.flags import speak_in_flags as speak_in_flags
from edgellm.errors.flags import speaks_in_flags as speaks_in_flags


class EdgeLLMError(Exception):
    """Base of all deliberate errors.

    `hint` says what to do next; it is printed after the message by every face.
    """

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def code(self) -> str:
        """Stable machine name: the class name in snake case."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


class UsageError(EdgeLLMError):
    """Attribute: param, the field or option that is wrong; "" where it is no single one."""

    exit_code = 2
    http_status = 400

    def __init__(self, message: str, *, hint: str = "", param: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.said: tuple[str, ...] = ()  # the message behind the name of the field, where it begins with that

    def rename(self, field: str) -> None:
        """Tell it of the field by another name: the one that it was sent by."""
        self.param = field
        if self.said:
            self.message = "".join((field, *self.said))


class UnsupportedField(UsageError):
    """Raised for a request field that has a meaning elsewhere but none here yet."""


class UnknownProfile(UsageError):
    http_status = 404


class UnknownModel(UsageError):
    http_status = 404

    def __init__(self, message: str, *, hint: str = "", param: str = "model") -> None:
        super().__init__(message, hint=hint, param=param)


class UnknownAdapter(UsageError):
    """Attribute: adapter, the name."""

    http_status = 404

    def __init__(self, message: str, *, hint: str = "", param: str = "adapters", adapter: str = "") -> None:
        super().__init__(message, hint=hint, param=param)
        self.adapter = adapter


class BadTemplate(UsageError):
    """The chat template failed, ran out of its budget, or reached for what it may not."""


class ContextOverflow(UsageError):
    """Attributes: n_prompt (tokens in the prompt; of one that is too long to be counted, about the fewest), n_ctx
    (tokens a slot holds), index (of the text, of several), shorter (what helps without a longer context)."""

    def __init__(self, message: str, *, hint: str = "", n_prompt: int = 0, n_ctx: int = 0, index: int = 0) -> None:
        super().__init__(message, hint=hint, param="prompt")
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx
        self.index = index
        self.shorter = ""

    def keep_to(self, longest: int) -> None:
        """Advise no longer context where the model has none: `longest` is what it was trained for, 0 = unknown."""
        if self.shorter and 0 < longest <= self.n_ctx:
            self.hint = self.shorter

    def _advise(self, shorter: str) -> Self:
        self.shorter = shorter
        self.hint = f"{shorter}, or start with a longer context ({option('ctx')}) where the model allows it"
        return self

    @classmethod
    def of_prompt(cls, message: str, *, n_prompt: int, n_ctx: int) -> Self:
        return cls(message, n_prompt=n_prompt, n_ctx=n_ctx)._advise("shorten the prompt")

    @classmethod
    def of_text(
        cls, name: str, index: int | None, n_prompt: int, n_ctx: int, *, beside: str = "", n_bytes: int = 0
    ) -> Self:
        """One text of several is too long: `"input[3] has 900 tokens, the context holds 512"`.

        Args:
            index: None = there is only one of that name.
            n_bytes: of a text that is too long to be cut into tokens, which nobody has counted therefore.
        """
        text = f"the {name}" if index is None else f"{name}[{index}]{beside}"
        if n_bytes:
            n_counted = f"{n_bytes:,} bytes besides up to 1 MiB of blanks"
            message = f"{text} has {n_counted}, the context holds {n_ctx:,} tokens"
        else:
            message = f"{text} has {n_prompt:,} tokens, the context holds {n_ctx:,}"
        error = cls(message, n_prompt=n_prompt, n_ctx=n_ctx, index=index or 0)
        error.param = name
        return error._advise("send shorter pieces")


class GrammarFailed(UsageError):
    """Raised in mid-answer; a grammar that cannot be used at all is refused before."""


class UnsupportedTask(UsageError):
    """The model that runs is of another kind: an encoder writes no text, a chat model embeds none."""


class NothingFits(EdgeLLMError):
    exit_code = 3
    http_status = 507


class ArtifactError(EdgeLLMError):
    exit_code = 4
    http_status = 422


class BadArtifact(ArtifactError):
    """The file is malformed, truncated, or its counts and offsets lie."""

    @classmethod
    def damaged(cls, message: str, *, remedy: str = "fetch it again") -> Self:
        """What it was when it was published, it is no more."""
        return cls(message, hint=f"the file is damaged; {remedy}")


class UnsupportedArtifact(ArtifactError):
    """The file is fine, but no installed backend (or not the one asked for) opens it."""


class UntrustedBundle(ArtifactError):
    """A bundle with no signature, with one by another key, or with other bytes than were signed."""


class ExpiredBundle(UntrustedBundle):
    """Attribute: expires, the first day on which it is not to be used, as "2027-01-31"."""

    def __init__(self, message: str, *, hint: str = "", expires: str = "") -> None:
        super().__init__(message, hint=hint)
        self.expires = expires


class OlderBundle(UntrustedBundle):
    """Attributes: release (of the bundle), installed (the release that it would replace)."""

    def __init__(self, message: str, *, hint: str = "", release: int = 0, installed: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.release = release
        self.installed = installed


class SourceError(EdgeLLMError):
    exit_code = 5
    http_status = 502


class SourceUnreachable(SourceError):
    http_status = 504


class IntegrityError(SourceError):
    """What arrived is not what the catalog or the index promised; it was deleted."""


class DiskFull(SourceError):
    http_status = 507


class StoreUnwritable(SourceError):
    """The folder of models, adapters or measurements may not be written, or lies on a file system that is read-only."""

    http_status = 507


class BackendError(EdgeLLMError):
    exit_code = 6
    http_status = 500


class BackendUnavailable(BackendError):
    http_status = 503


class CacheFull(BackendError):
    """Raised by `Engine.step` before it touches the cache. Attribute: needed, free (cells)."""

    http_status = 503

    def __init__(self, message: str, *, hint: str = "", needed: int = 0, free: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed
        self.free = free


class StepFailed(BackendError):
    """Raised by `Engine.step` after the cache was touched. Attribute: lost_slots."""

    def __init__(self, message: str, *, hint: str = "", lost_slots: tuple[int, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.lost_slots = lost_slots


class RuntimeFailure(EdgeLLMError):
    exit_code = 7
    http_status = 500


class WorkerCrashed(RuntimeFailure):
    """Attribute: reason, e.g. "killed by SIGILL (illegal instruction)"."""

    http_status = 503

    def __init__(self, message: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class RunawayModel(WorkerCrashed):
    """The worker was ended because the model's files, or its backend, made it compute longer than any model may."""


class Overloaded(RuntimeFailure):
    http_status = 503


class TooManyRequests(Overloaded):
    """Of one client, whose requests fill the queue."""

    http_status = 429


class TimedOut(RuntimeFailure, TimeoutError):
    """The request was ended; one that loads or drops an adapter goes on. Attribute: timeout, the seconds that the
    caller gave it."""

    http_status = 504

    def __init__(self, message: str, *, hint: str = "", timeout: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.timeout = timeout


class InvalidAnswer(RuntimeFailure):
    """Attribute: text, the answer as the model wrote it."""

    def __init__(self, message: str, *, hint: str = "", text: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text


class IncompleteAnswer(InvalidAnswer):
    """`max_tokens` or a full context ended the answer in the middle of its JSON."""


class TooManyRounds(RuntimeFailure):
    """Attributes: rounds (how often the model answered with calls of tools), messages (the conversation so far, with
    the answer that called once more), results (of the calls that were made). The last two are as those of `ToolUse`."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        rounds: int = 0,
        messages: tuple[Any, ...] = (),
        results: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.rounds = rounds
        self.messages = messages
        self.results = results


class UnfitSlot(RuntimeFailure):
    """Attribute: checks, rows of what was asked of it: `name`, `state`, `value`, `bound`, `problem`."""

    def __init__(self, message: str, *, hint: str = "", checks: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.checks = checks

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that it failed."""
        return tuple(str(check["name"]) for check in self.checks if check["state"] == "failed")


class Unauthorized(RuntimeFailure):
    http_status = 401


class Closed(RuntimeFailure):
    http_status = 503

    @classmethod
    def of_model(cls) -> Self:
        # Flags are a command's, and who waits for one is a client of the server.
        again = "send the request again when it is back" if speaks_in_flags() else "load the model again"
        return cls("the model was closed", hint=again)


def by_code(code: str) -> type[EdgeLLMError]:
    """The class whose `code` is given, EdgeLLMError where there is none (a plugin's own error)."""
    pending: list[type[EdgeLLMError]] = [EdgeLLMError]
    while pending:
        cls = pending.pop()
        # A plugin's class may want other arguments.
        if cls.__module__ == __name__ and cls("").code == code:
            return cls
        pending.extend(cls.__subclasses__())
    return EdgeLLMError


class SecondBest(UserWarning):
    """Warned of by `EdgeLLM.auto()`: a better model would be chosen, but its source does not answer."""


class PluginFailed(UserWarning):
    """Warned of by `EdgeLLM.auto()` and `load()`: a plugin failed, and selection rules that it may bring were not
    asked."""
