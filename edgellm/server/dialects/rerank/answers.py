"""Ordered documents, as they are sent and as /docs shows them."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from edgellm.server.schemas.response import ReadUsage


class Document(Struct, frozen=True):
    text: str


class Ranked(Struct, frozen=True):
    index: int  # of the document in the request
    relevance_score: float  # on the model's own scale
    document: Document | UnsetType = UNSET


class Ranking(Struct, frozen=True):
    model: str
    object: str
    results: list[Ranked]  # the best first
    usage: ReadUsage


class RankedText(Struct, frozen=True):
    """One of a list, the best first, where `texts` were sent."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class CohereRanked(Struct, frozen=True):
    index: int
    relevance_score: float  # from 0 to 1


class CohereVersion(Struct, frozen=True):
    version: str = "2"


class CohereMeta(Struct, frozen=True):
    api_version: CohereVersion = CohereVersion()


class CohereRanking(Struct, frozen=True):
    id: str
    results: list[CohereRanked]
    meta: CohereMeta
