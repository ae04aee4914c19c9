"""What a cluster is asked to serve, as plain data: Ray carries it to every replica."""

from __future__ import annotations

import hashlib
from typing import Any, Self

import msgspec
from msgspec import Struct

from edgellm.types.options import LaunchOptions


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What each replica runs. Another one replaces it without a new process (`Box.reconfigure`)."""

    model: str | None = None  # None = the best for the machine of each replica
    options: LaunchOptions = LaunchOptions()
    golden: tuple[tuple[str, str], ...] = ()  # prompts, and what their greedy answers must contain
    min_speed: float = 0.25  # of the predicted rate, at its low end: what a fresh replica must reach; 0 = not measured

    def encoded(self) -> dict[str, Any]:
        """As JSON values."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    @property
    def mark(self) -> str:
        """The same where the same is asked for."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]

    @classmethod
    def decoded(cls, fields: dict[str, Any]) -> Self:
        """What `encoded` made."""
        return msgspec.convert(fields, cls)


class ServiceConfig(Struct, frozen=True, kw_only=True):
    """How replicas answer. Another one makes new replicas."""

    api_key: str | None = None
    public_name: str = "127.0.0.1"  # by which clients reach the cluster
    aliases: tuple[str, ...] = ()
    any_model: bool = False
    strict_fields: bool = False
