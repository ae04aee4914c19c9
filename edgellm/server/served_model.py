"""The model behind the routes: its names, and whether it accepts requests now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgellm.errors import ContextOverflow, UnknownModel
from edgellm.sdk.client import EdgeLLM
from edgellm.server.errors import HttpError
from edgellm.server.schemas.fields import Body

# Names that always mean the model that is served: some clients cannot be told another one.
ALIASES = ("default", "edgellm")


class ServedModel:
    """A model and what every dialect needs to know of it.

    Attributes:
        created: when it was put behind the routes, in seconds since 1970.
    """

    def __init__(self, llm: EdgeLLM) -> None:
        self.llm = llm
        self.created = int(time.time())

    @property
    def id(self) -> str:
        return self.llm.plan.artifact.name

    def read(self, raw: bytes, body_type: type[Body]) -> Body:
        """The body of a request for this model.

        Raises:
            UsageError, UnsupportedField: the body is wrong; UnknownModel, HttpError: as `require`.
        """
        body = body_type.read(raw)
        self.require(body.model)
        return body

    def require(self, name: str | None) -> None:
        """Check that requests for `name` can be answered now.

        After a crash the model is loading again, but it is known to load: requests then wait until it has loaded.

        Raises:
            HttpError: 503, the model is loading or failed; UnknownModel: another model is served.
        """
        state = self.llm.state
        if state == "loading" and not self.llm.was_ready:
            raise HttpError(503, "the model is loading", code="model_loading", hint="try again in a moment")
        if state in ("hung", "failed", "closed"):
            raise HttpError(503, f"the model is not running: {self.reason()}", code=f"model_{state}")
        if name is not None and not self.is_named(name):
            raise self.unknown(name, hint=f"served: {self.id} (also as {' or '.join(ALIASES)})")

    def is_named(self, name: str) -> bool:
        return name in (self.id, *ALIASES)

    def unknown(self, name: str, hint: str = "") -> UnknownModel:
        """The error for a request for another model."""
        shown = repr(name if len(name) <= 80 else f"{name[:77]}...")
        return UnknownModel(f"{shown} is not served here", hint=hint or f"served: {self.id}", param="model")

    def reason(self) -> str:
        """Why the model is not running; "" while it runs, and while it loads for the first time."""
        if self.llm.outage is not None:
            return str(self.llm.outage)
        return "it was closed" if self.llm.state == "closed" else ""


@contextmanager
def overflow_names(field: str) -> Iterator[None]:
    """A text that is too long is named as the body calls it: `messages`, `prompt`, `input`."""
    try:
        yield
    except ContextOverflow as error:
        error.param = field
        raise
