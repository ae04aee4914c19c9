"""A conversation in one dialect and its twins in the others are one request to the model, and have one answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from edgellm_bitnet.models import TINY_TERNARY
from support.live_server import Live, Servers
from support.twins import Twin

from edgellm.sdk.client import EdgeLLM
from edgellm.server.dialects.anthropic.body import AnthropicMessagesBody
from edgellm.server.dialects.ollama.chat_body import OllamaChatBody
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.schemas.chat import ChatBody
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest

N_TWINS = 100
TEMPLATES = {
    "with tools and thoughts": """\
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
    "plain": """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""",
}
BODIES = {"anthropic": AnthropicMessagesBody, "responses": ResponsesBody, "ollama": OllamaChatBody}


@pytest.fixture(scope="module", params=TEMPLATES.values(), ids=TEMPLATES.keys())
def llm(request: pytest.FixtureRequest) -> Iterator[EdgeLLM]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        llm._session._info = replace(llm.info, chat_template=request.param)  # type: ignore[attr-defined]
        yield llm


def asked(body: Any, llm: EdgeLLM) -> GenerationRequest:
    (request,) = body.to_requests(llm)
    # Whether it is told how the prompt is read changes no answer.
    return msgspec.structs.replace(request, progress=False)


@pytest.mark.parametrize("dialect", BODIES)
def test_twins_are_one_request(dialect: str, llm: EdgeLLM) -> None:
    for number in range(N_TWINS):
        twin = Twin.generated(number)
        own = BODIES[dialect].read(json.dumps(getattr(twin, dialect)()).encode())
        chat = ChatBody.read(json.dumps(twin.chat()).encode())
        assert asked(own, llm) == asked(chat, llm), number


def texts(live: Live, twin: Twin) -> dict[str, tuple[str, int]]:
    """The answer by dialect, and the number of tokens of its prompt."""
    chat = live.post("/v1/chat/completions", twin.chat()).json()
    anthropic = live.post("/v1/messages", twin.anthropic()).json()
    responses = live.post("/v1/responses", twin.responses()).json()
    ollama = live.post("/api/chat", twin.ollama()).json()
    usage = anthropic["usage"]
    return {
        "chat": (chat["choices"][0]["message"]["content"], chat["usage"]["prompt_tokens"]),
        "anthropic": (
            "".join(block["text"] for block in anthropic["content"]),
            usage["input_tokens"] + usage["cache_read_input_tokens"],
        ),
        "responses": (
            "".join(part["text"] for item in responses["output"] for part in item["content"]),
            responses["usage"]["input_tokens"],
        ),
        "ollama": (ollama["message"]["content"], ollama["prompt_eval_count"]),
    }


def test_twins_have_one_answer_on_the_ternary_engine(serve: Servers) -> None:
    path = TINY_TERNARY.files[0].source.removeprefix("file:")
    live = serve(LaunchPlan("bitnet", Artifact("gguf", (path,), "tiny"), Settings(2048, n_slots=1)))
    told = set()
    for number in range(8):
        twin = replace(Twin.generated(number), tools=[], max_tokens=12)
        twin.turns = [replace(turn, calls=[], text=turn.text or "yes") for turn in twin.turns]
        by_dialect = texts(live, twin)
        assert len(set(by_dialect.values())) == 1, (number, by_dialect)
        told.update(by_dialect.values())
    assert len(told) > 4
