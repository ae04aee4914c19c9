"""Which replica a conversation belongs to: the one that holds its prefix. No Ray here.

Rendezvous hashing with weights: a replica that leaves takes only its own conversations along, and one twice as fast
gets twice as many (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

SLACK = 1.1  # a replica takes so much more than its share of conversations before the next one gets them
MOST_SESSIONS = 100_000
_PREFIX_CHARACTERS = 4096  # of the beginning of a conversation: some thousand tokens
_PLAN = ";plan="


class Wish(NamedTuple):
    """What a request asks of the router, as its session header carries it."""

    session: str
    plan: str = ""  # fingerprint of the plan that the answer was begun with; "" = any

    @classmethod
    def of(cls, header: str) -> Self:
        session, _, plan = header.partition(_PLAN)
        return cls(session, plan)

    def encoded(self) -> str:
        return f"{self.session}{_PLAN}{self.plan}" if self.plan else self.session


def session_of(fields: Mapping[str, Any]) -> str:
    """A digest of how the conversation of a request begins, up to its first message of the user: the same at each of
    its turns. "" where there is none. `fields`: its body."""
    beginning = _beginning(fields)
    return hashlib.sha256(beginning.encode("utf-8", "replace")).hexdigest()[:32] if beginning else ""


def _beginning(fields: Mapping[str, Any]) -> str:
    """System text and the first message of the user; of a plain prompt its beginning."""
    system = _text(fields.get("system") or fields.get("instructions"))
    messages = fields.get("messages") or fields.get("input") or fields.get("prompt") or ""
    if isinstance(messages, str):
        return f"{system}\n{messages[:_PREFIX_CHARACTERS]}"[:_PREFIX_CHARACTERS] if messages else ""
    texts, n_characters = [system], len(system)
    for message in messages if isinstance(messages, list) else []:
        is_message = isinstance(message, dict)
        texts.append(_text(message.get("content") if is_message else message))
        n_characters += len(texts[-1])
        if n_characters > _PREFIX_CHARACTERS or (is_message and message.get("role") == "user"):
            break
    return "\n".join(texts)[:_PREFIX_CHARACTERS].strip()


def _text(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True) if content else ""
    return text[:_PREFIX_CHARACTERS]


def order(key: str, weights: Mapping[str, float]) -> list[str]:
    """The replicas, the one that the key belongs to first. `weights` are positive."""
    return sorted(weights, key=lambda name: -weights[name] / math.log(_fraction(f"{key} {name}")), reverse=True)


def _fraction(text: str) -> float:
    """Uniform in (0, 1)."""
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
    return (number + 0.5) / 2**64


class Placement:
    """Where conversations were sent. They stay there, also where speeds change, and go on only where it is gone."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self._most = most
        self._places: OrderedDict[str, str] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def ranked(self, key: str, speeds: Mapping[str, float]) -> list[str]:
        """The replicas in the order in which they should be asked, by name; `speeds` in tokens/s, 0 = unknown."""
        weights = _weights(speeds)
        ranks = order(key, weights)
        place = self._places.get(key)
        if place not in weights:
            place = self._fresh(ranks, weights)
            self._put(key, place)
        self._places.move_to_end(key)
        return [place, *(name for name in ranks if name != place)]

    def _fresh(self, ranks: list[str], weights: Mapping[str, float]) -> str:
        """The first that has no more than its share."""
        n_sessions = 1 + sum(self._counts[name] for name in weights)
        whole = sum(weights.values())
        with_room = (name for name in ranks if self._counts[name] < SLACK * n_sessions * weights[name] / whole)
        return next(with_room, ranks[0])

    def _put(self, key: str, place: str) -> None:
        if key in self._places:
            self._counts[self._places[key]] -= 1
        self._places[key] = place
        self._counts[place] += 1
        while len(self._places) > self._most:
            _, oldest = self._places.popitem(last=False)
            self._counts[oldest] -= 1


def _weights(speeds: Mapping[str, float]) -> dict[str, float]:
    """Where one is unknown, it counts as the mean of the others."""
    measured = [speed for speed in speeds.values() if speed > 0]
    usual = sum(measured) / len(measured) if measured else 1.0
    return {name: speed if speed > 0 else usual for name, speed in speeds.items()}
