"""docs/http-fields.md: what becomes of each field of a body.

EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest tests/server/test_field_lists.py    writes it
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from edgellm.server.dialects.anthropic.body import AnthropicCountBody, AnthropicMessagesBody
from edgellm.server.dialects.llama_server.bodies import DetokenizeBody, InfillBody, LlamaCompletionBody, TokenizeBody
from edgellm.server.dialects.ollama.chat_body import OllamaChatBody
from edgellm.server.dialects.ollama.embeddings import OllamaEmbedBody, OllamaEmbeddingsBody
from edgellm.server.dialects.ollama.generate_body import OllamaGenerateBody
from edgellm.server.dialects.ollama.management import OllamaCopyBody, OllamaPullBody
from edgellm.server.dialects.ollama.models import OllamaNameBody, OllamaShowBody
from edgellm.server.dialects.rerank.bodies import CohereRerankBody, RerankBody
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.embeddings import EmbeddingBody
from edgellm.server.schemas.fields import Fields, schemas_in, supported

PAGE = Path(__file__).parents[2] / "docs" / "http-fields.md"
BODIES = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/rerank": RerankBody,
    "/v2/rerank": CohereRerankBody,
    "/completion": LlamaCompletionBody,
    "/infill": InfillBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/v1/messages": AnthropicMessagesBody,
    "/v1/messages/count_tokens": AnthropicCountBody,
    "/api/chat": OllamaChatBody,
    "/api/generate": OllamaGenerateBody,
    "/api/embed": OllamaEmbedBody,
    "/api/embeddings": OllamaEmbeddingsBody,
    "/api/show": OllamaShowBody,
    "/api/pull": OllamaPullBody,
    "/api/copy": OllamaCopyBody,
    "/api/delete": OllamaNameBody,
}
HEAD = """# Fields of bodies

Written by `tests/server/test_field_lists.py` from the schemas that read them. What is in no list is accepted, named in
the header `x-edgellm-ignored`, and refused with `--strict-fields` ([http.md](http.md#fields)). A test reads the types
of OpenAI's newest client, and fails where one of its fields is in no list.
"""
TABLE = "| object | honoured | accepted without effect | refused, but for these values |\n|---|---|---|---|\n"


def test_the_page_has_every_list() -> None:
    page = HEAD + "".join(line for path, body in BODIES.items() for line in _section(path, body))
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def _section(path: str, body: type[Fields]) -> Iterator[str]:
    yield f"\n## `{path}`\n\n{TABLE}"
    for schema in dict.fromkeys(schemas_in(body)):
        refused = [f"{_code(name)}: {_values(schema, name)}" for name in sorted(schema.NOT_SUPPORTED)]
        cells = (", ".join(map(_code, sorted(names))) for names in (supported(schema), schema.IGNORED))
        yield f"| {schema.__name__} | {' | '.join(cells)} | {'; '.join(refused)} |\n"


def _values(schema: type[Fields], name: str) -> str:
    return ", ".join(_code(json.dumps(value)) for value in (*schema.NOT_SUPPORTED[name], None))


def _code(text: str) -> str:
    return f"`{text}`"
