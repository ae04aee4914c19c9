"""Lists of the models that are served, in every dialect: each box tells its part, and the front joins them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edgellm.server.error_form import lists_for_anthropic

if TYPE_CHECKING:
    from starlette.types import Scope

    from edgellm.server.served_model import ServedModel

_OPENAI, _ANTHROPIC, _TAGS, _RUNNING = "openai", "anthropic", "tags", "running"
_PATHS = {"/v1/models": _OPENAI, "/models": _OPENAI, "/api/tags": _TAGS, "/api/ps": _RUNNING}


def of(served: ServedModel) -> dict[str, dict[str, Any]]:
    """The bodies of all lists, where one model is served."""
    from edgellm.server.dialects.anthropic.models import anthropic_models
    from edgellm.server.dialects.ollama import models as ollama
    from edgellm.server.dialects.openai.operations import model_list

    lists: dict[str, dict[str, Any]] = msgspec.to_builtins(
        {
            _OPENAI: model_list(served),
            _ANTHROPIC: anthropic_models(served),
            _TAGS: ollama.model_list(served),
            _RUNNING: ollama.running_list(served),
        }
    )
    return lists


def asked_for(scope: Scope) -> str | None:
    """Which list a request is for; None = it is for none."""
    form = _PATHS.get(scope["path"])
    return _ANTHROPIC if form == _OPENAI and lists_for_anthropic(scope) else form


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One list of several; each model once."""
    whole = dict(parts[0])
    key = "data" if "data" in whole else "models"
    models: dict[str, Any] = {}
    for model in (model for part in parts for model in part[key]):
        models.setdefault(model.get("id") or model["name"], model)
    whole[key] = list(models.values())
    if "first_id" in whole:
        whole |= {"first_id": whole[key][0]["id"], "last_id": whole[key][-1]["id"]}
    return whole
