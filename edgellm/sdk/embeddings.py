"""Vectors and scores asked of a loaded model: `EdgeLLM.embed` and `EdgeLLM.rerank`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgellm.errors import UsageError
from edgellm.runtime.session import Session
from edgellm.sdk.asking import aask_all, ask_all, in_thread, of_kind
from edgellm.sdk.deadline import Deadline
from edgellm.types.event import Vectors
from edgellm.types.request import MAX_INPUTS, EmbeddingRequest, RerankRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEWER = "send fewer texts at a time"
_CALLED = "texts"  # the argument of `embed`, in errors
Texts = str | Sequence[str | Sequence[int]]


class EmbeddingMethods:
    """The methods of `EdgeLLM` that ask for vectors and scores. Thread-safe."""

    _session: Session

    def embed(
        self, texts: Texts, *, dimensions: int | None = None, timeout: float | None = None
    ) -> npt.NDArray[np.float32]:
        """float32 (texts, numbers of a vector), in order; one text is one row. Token ids are taken as they are.

        Args:
            dimensions: so many numbers of each vector only; for models that were trained for it.
            timeout: seconds from sending the texts within which all vectors must come; the rest is ended.

        Raises:
            UnsupportedTask: the model cannot embed; ContextOverflow: a text is too long (`index` says which);
            UsageError: an empty text, or dimensions that the model does not have; TimedOut; WorkerCrashed.
        """
        answers = self._vectors(requests(texts, dimensions), timeout)
        return rows(answers) if answers else _no_rows(self._session.info.n_embd, dimensions)

    async def aembed(
        self, texts: Texts, *, dimensions: int | None = None, timeout: float | None = None
    ) -> npt.NDArray[np.float32]:
        """As `embed`, for coroutines."""
        answers = await self._avectors(requests(texts, dimensions), timeout)
        if answers:
            return rows(answers)
        info = await in_thread(self._session, lambda: self._session.info)
        return _no_rows(info.n_embd, dimensions)

    def rerank(self, query: str, documents: Sequence[str], *, timeout: float | None = None) -> npt.NDArray[np.float32]:
        """float32 (documents,): how well each answers the query, in order; higher is better.

        Raises:
            UnsupportedTask: the model is no reranker (embeddings are not compared in its place). Else as `embed`.
        """
        return rows(self._vectors([_ranking(query, documents)], timeout))[:, 0]

    async def arerank(
        self, query: str, documents: Sequence[str], *, timeout: float | None = None
    ) -> npt.NDArray[np.float32]:
        """As `rerank`, for coroutines."""
        return rows(await self._avectors([_ranking(query, documents)], timeout))[:, 0]

    async def avectors(self, request: EmbeddingRequest | RerankRequest, *, timeout: float | None = None) -> Vectors:
        """One request's answer as it came, with its usage."""
        (vectors,) = await self._avectors([request], timeout)
        return vectors

    def _vectors(self, batch: Sequence[EmbeddingRequest | RerankRequest], timeout: float | None) -> list[Vectors]:
        return ask_all(self._session, batch, of_kind(Vectors), Deadline(timeout, instead=FEWER))

    async def _avectors(
        self, batch: Sequence[EmbeddingRequest | RerankRequest], timeout: float | None
    ) -> list[Vectors]:
        return await aask_all(self._session, batch, of_kind(Vectors), Deadline(timeout, instead=FEWER))


def requests(texts: Texts, dimensions: int | None) -> list[EmbeddingRequest]:
    """As many requests as the texts need; none for no texts.

    Raises:
        UsageError: neither text nor token ids, or empty.
    """
    if isinstance(texts, bytes | bytearray):  # they are numbers, and no ids
        raise _no_text(_CALLED, texts)
    try:
        many = [texts] if isinstance(texts, str) else list(texts)
    except TypeError:
        raise _no_text(_CALLED, texts) from None
    inputs: list[str | tuple[int, ...]] = []
    for at, text in enumerate(many):
        if isinstance(text, bytes | bytearray):
            raise _no_text(f"{_CALLED}[{at}]", text)
        try:
            inputs.append(text if isinstance(text, str) else tuple(text))
        except TypeError:
            raise _no_text(f"{_CALLED}[{at}]", text) from None
    return [
        EmbeddingRequest(tuple(inputs[at : at + MAX_INPUTS]), dimensions, called=_CALLED, first=at)
        for at in range(0, len(many), MAX_INPUTS)
    ]


def _no_text(name: str, value: object) -> UsageError:
    return UsageError(f"{name}={value!r:.60} is neither text nor a list of token ids", param=_CALLED)


def _ranking(query: str, documents: Sequence[str]) -> RerankRequest:
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        hint = "pass a list, with a single one, too"
        raise UsageError(f"documents={documents!r:.60} is no list of texts", hint=hint, param="documents")
    return RerankRequest(query, tuple(documents))


def rows(answers: Sequence[Vectors]) -> npt.NDArray[np.float32]:
    """float32 (texts, numbers of each) of all answers together."""
    import numpy as np

    return np.concatenate([np.frombuffer(one.data, "<f4").reshape(one.n, -1) for one in answers]).astype(np.float32)


def _no_rows(n_embd: int, dimensions: int | None) -> npt.NDArray[np.float32]:
    """As wide as the others, so that they can be stacked and multiplied."""
    import numpy as np

    return np.zeros((0, dimensions or n_embd), np.float32)
