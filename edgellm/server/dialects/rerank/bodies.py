"""Bodies of requests to order documents, as Jina, Cohere and Hugging Face (text-embeddings-inference) have them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from edgellm.errors import UsageError
from edgellm.runtime.unsupported_task import unsupported_task
from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.tokens import tokenize_each
from edgellm.server.dialects.rerank.beginnings import beginnings
from edgellm.server.schemas.fields import NeutralValues, RequestBody
from edgellm.types.checks import MAX_COUNT
from edgellm.types.request import MAX_INPUTS, MAX_TOKEN_BYTES, RerankRequest

COHERE_TOKENS = 4096  # of a document, unless a request says otherwise, as in Cohere's API
SPECIALS = 4  # tokens that a model puts around query and document, at most
Documents = Annotated[list[str], Meta(max_length=MAX_INPUTS)]
TopN = Annotated[int | None, Meta(description="Only this many of the best; absent: all.")]


class CohereRerankBody(RequestBody, kw_only=True):
    """POST /v2/rerank."""

    text_field = "documents"
    example = '{"query": "...", "documents": ["..."]}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {"relevant_spans": ({"mode": "disabled"},)}
    IGNORED = ("priority",)

    query: str
    documents: Documents
    top_n: TopN = None
    max_tokens_per_doc: Annotated[int | None, Meta(description="Longer documents are cut; 4096, and what fits.")] = None

    def to_request(self, llm: EdgeLLM) -> RerankRequest:
        """
        Raises:
            UsageError: a value is out of range.
        """
        _check_at_least_one(self.top_n, "top_n")
        _check_at_least_one(self.max_tokens_per_doc, "max_tokens_per_doc")
        most = self.max_tokens_per_doc or COHERE_TOKENS
        return RerankRequest(self.query, fitting(llm, self.query, self.documents, most))


class RerankBody(RequestBody, kw_only=True):
    """POST /v1/rerank: Jina's `documents`, or the `texts` of text-embeddings-inference with its other fields."""

    text_field = "documents"
    example = '{"query": "...", "documents": ["..."]}'
    NOT_SUPPORTED: ClassVar[NeutralValues] = {
        "max_chunks_per_doc": (),
        "rank_fields": (),
    }
    IGNORED = ("user", "truncation_direction")

    query: str
    documents: Documents | None = None
    texts: Documents | None = None
    top_n: TopN = None
    truncation: Annotated[bool | None, Meta(description="Documents that do not fit are cut; else refused.")] = None
    truncate: Annotated[bool | None, Meta(description="The same, in text-embeddings-inference.")] = None
    max_tokens_per_doc: Annotated[int | None, Meta(description="Longer documents are cut.")] = None
    return_documents: Annotated[bool | None, Meta(description="Repeat each document in its result.")] = None
    return_text: Annotated[bool | None, Meta(description="The same, beside `texts`.")] = None
    raw_scores: Annotated[bool | None, Meta(description="Beside `texts`: the model's own scale, not 0 to 1.")] = None

    def to_request(self, llm: EdgeLLM) -> RerankRequest:
        """
        Raises:
            UsageError: a value is out of range, or the documents are not there once.
        """
        if (self.documents is None) == (self.texts is None):
            raise UsageError("documents is required, or texts", hint="send one of them", param="documents")
        _check_at_least_one(self.top_n, "top_n")
        _check_at_least_one(self.max_tokens_per_doc, "max_tokens_per_doc")
        if self.truncation or self.truncate or self.max_tokens_per_doc:
            return RerankRequest(self.query, fitting(llm, self.query, self.sent, self.max_tokens_per_doc or MAX_COUNT))
        return RerankRequest(self.query, tuple(self.sent))

    @property
    def sent(self) -> list[str]:
        return self.texts or self.documents or []

    @property
    def repeats(self) -> bool:
        """Whether results hold their documents."""
        return bool(self.return_text if self.texts is not None else self.return_documents)


def fitting(llm: EdgeLLM, query: str, documents: list[str], most: int) -> tuple[str, ...]:
    """The beginnings of documents: `most` tokens of each at most, and what fits in the context beside the query.

    Raises:
        UnsupportedTask: the model ranks nothing, which cutting a thousand documents would take half a minute to say.
    """
    if "rerank" not in llm.info.capabilities:
        raise unsupported_task("rerank", llm.info)
    if max((len(document.encode()) for document in documents), default=0) + len(query.encode()) + SPECIALS <= min(
        most, llm.info.n_ctx
    ):
        return tuple(documents)  # no token is shorter than a byte
    most = max(1, min(most, llm.info.n_ctx - len(llm.tokenize(query)) - SPECIALS))
    encoded = ((index, one.encode()) for index, one in enumerate(documents))
    long = {at: one[: most * MAX_TOKEN_BYTES].decode(errors="ignore") for at, one in encoded if len(one) > most}
    cut = beginnings(list(long.values()), most, lambda texts: map(len, tokenize_each(llm, texts)))
    long.update(zip(long, cut, strict=True))
    return tuple(long.get(index, document) for index, document in enumerate(documents))


def _check_at_least_one(value: int | None, name: str) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{name}={value} is out of range", hint="allowed: 1 or more", param=name)
