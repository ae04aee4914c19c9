"""Ollama's dialect: everything below `/api`."""

from __future__ import annotations

from edgellm.server.dialects.ollama import embeddings, generation, management, models, not_served
from edgellm.server.openapi import Operation
from edgellm.server.served_model import ServedModel


def operations(served: ServedModel, *, allow_manage: bool) -> list[Operation]:
    """The operations of this dialect."""
    return [
        *generation.operations(served),
        *embeddings.operations(served),
        *models.operations(served),
        *management.operations(served, allowed=allow_manage),
        *not_served.operations(),
    ]
