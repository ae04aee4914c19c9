"""What a cluster is asked to serve, as plain data: Ray carries it to every replica."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

import msgspec
from msgspec import Struct

from edgellm.types.options import LaunchOptions

NAME = "edgellm"  # of a service that nobody named


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What each replica of a service runs. Another one replaces it without a new process (`Box.reconfigure`).

    A service is what answers to a name: an application of Ray Serve, whose model may change.
    """

    name: str = NAME
    order: int = 0  # among the services: the first one gets the requests that name no model
    model: str | None = None  # None = the best for the machine of each replica
    options: LaunchOptions = LaunchOptions()
    golden: tuple[tuple[str, str], ...] = ()  # prompts, and what their greedy answers must contain
    min_speed: float = 0.25  # of the predicted rate, at its low end: what a fresh replica must reach; 0 = not measured

    def encoded(self) -> dict[str, Any]:
        """As JSON values."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    @property
    def app(self) -> str:
        """The name of its application."""
        return app_of(self.name)

    @property
    def mark(self) -> str:
        """The same where the same is asked for."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]

    @classmethod
    def decoded(cls, fields: dict[str, Any]) -> Self:
        """What `encoded` made."""
        return msgspec.convert(fields, cls)


def app_of(name: str) -> str:
    """The application of the service of that name: Ray writes files that are called so, and it is a part of paths."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "-", name)[:40]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class ServiceConfig(Struct, frozen=True, kw_only=True):
    """How replicas answer. Another one makes new replicas."""

    api_key: str | None = None
    public_name: str = "127.0.0.1"  # by which clients reach the cluster
    aliases: tuple[str, ...] = ()
    any_model: bool = False
    strict_fields: bool = False
