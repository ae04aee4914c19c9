"""A folder whose author declares in `response_template` how its answers are marked."""

from __future__ import annotations

import json
from pathlib import Path

from support import onnx_models
from support.onnx_models import Tiny
from support.response_templates import HERMES, template

from edgellm import EdgeLLM
from edgellm.types.grammar import Grammar
from edgellm.types.markup import JsonCalls, ReasoningMarkup
from edgellm.types.message import Tool

SKY = Tool("sky", parameters={"type": "object", "properties": {"in": {"enum": ["Köln"]}}, "required": ["in"]})
DECLARED = template(
    thinking={"open": "<idea>", "close": "</idea>"}, tool_calls={**HERMES, "open": "<do>", "close": "</do>"}, content={}
)
# It writes no call and no thought of the history.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt and enable_thinking %}<idea>{% endif %}"
)


def folder(path: Path, declared: object) -> str:
    onnx_models.shared(path, Tiny(bits=4, external=True, num_logits=True))
    config = json.loads((path / "tokenizer_config.json").read_text()) | {"response_template": declared}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return str(path)


def test_calls_and_thoughts_are_read_as_the_folder_declares(tmp_path: Path) -> None:
    with EdgeLLM.load(folder(tmp_path / "tiny", DECLARED), ctx=256, isolate=False) as llm:
        called = llm.chat("Rain?", tools=[SKY], tool_choice="required", max_tokens=60, temperature=0)
        thought = llm.chat(
            "Rain?",
            thinking=True,
            reasoning_effort="low",
            max_tokens=40,
            temperature=0,
            grammar=Grammar("choice", '["yes"]'),
        )
        request = llm.request("Rain?", tools=[SKY])
    assert [call.name for call in called.calls] == ["sky"]
    assert called.calls[0].arguments.startswith("{")
    assert called.text == ""
    assert (bool(thought.reasoning), thought.text) == (True, "yes")
    assert request.reading is not None
    assert request.reading.markup.calls == JsonCalls("<do>", "</do>")
    assert request.reading.markup.reasoning == ReasoningMarkup("<idea>", "</idea>")
