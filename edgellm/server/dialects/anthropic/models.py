"""Models as Anthropic's clients list them, at the path that OpenAI's use as well."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from edgellm.server.served_model import ServedModel


class AnthropicModel(msgspec.Struct, frozen=True, tag_field="type", tag="model"):
    """Attribute: created_at, when it was put behind the routes (RFC 3339)."""

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int  # what a slot holds


class AnthropicModelList(msgspec.Struct, frozen=True):
    """All of them at once."""

    data: list[AnthropicModel]
    first_id: str
    last_id: str
    has_more: bool = False


def anthropic_models(served: ServedModel) -> AnthropicModelList:
    """The one model that is served, by each of its names."""
    names = served.all_names
    return AnthropicModelList([anthropic_model(served, name) for name in names], names[0], names[-1])


def anthropic_model(served: ServedModel, name: str) -> AnthropicModel:
    """The model under one of its names."""
    created = datetime.fromtimestamp(served.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return AnthropicModel(name, served.llm.plan.artifact.name, created, served.llm.plan.settings.n_ctx)
