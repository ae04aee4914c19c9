"""What every operation of this dialect has in common, for the documentation."""

from __future__ import annotations

import msgspec

from edgellm.server.openapi import ResponseDoc

TAG = "Ollama"


class OllamaError(msgspec.Struct, frozen=True):
    error: str
    code: str  # extension


REFUSALS = {
    "4XX": ResponseDoc(OllamaError, "The request is refused."),
    "503": ResponseDoc(OllamaError, "The model is loading, crashed or closed; see Retry-After."),
}
