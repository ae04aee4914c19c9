"""SmolLM2 under a schema: its own vocabulary, spelled as it would."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from support.mixes import Planned, play

from edgellm.contract.manager import plugins
from edgellm.sdk.client import EdgeLLM
from edgellm.types.grammar import Grammar
from edgellm.types.message import NamedTool, TextInput, Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

pytestmark = [pytest.mark.model]

SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 12}, "inhabitants": {"type": "integer", "minimum": 0}},
    "required": ["capital", "inhabitants"],
    "additionalProperties": False,
}
PROMPT = "<|im_start|>user\nName the capital of France as JSON.<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_under_a_schema(smollm2: str) -> None:
    settings = Settings(n_ctx=256, n_slots=2, n_threads=1, n_threads_batch=1, n_batch=128)
    engine = plugins().backend("gguf").open(LaunchPlan("gguf", Artifact("gguf", (smollm2,), "test"), settings))
    try:
        grammar = Grammar.of_schema(SCHEMA)
        asked = [
            GenerationRequest(PROMPT, sampling, max_tokens=60, grammar=grammar)
            for sampling in (Sampling(temperature=0), Sampling(temperature=1.5, top_k=40, seed=3))
        ]
        for answer in play(engine, [Planned(request) for request in asked]):
            assert answer.reason == "stop"
            jsonschema.validate(json.loads(answer.text), SCHEMA)
    finally:
        engine.close()


@pytest.mark.slow(4)
def test_a_tool_that_takes_a_text_is_called_with_one_that_matches(smollm2: str) -> None:
    settings = Settings(n_ctx=512, n_slots=1, n_threads=1, n_threads_batch=1, n_batch=256)
    pattern = r'(ls|cat "[^"\n]{1,12}")( [|] wc -[lw])?'
    shell = Tool("shell", "Runs a command.", input=TextInput(pattern))
    with EdgeLLM(LaunchPlan("gguf", Artifact("gguf", (smollm2,), "smollm2"), settings), isolate=False) as llm:
        answer = llm.chat("Count the lines.", tools=[shell], tool_choice=NamedTool("shell"), temperature=1.2, seed=2)
    (call,) = answer.calls

    assert answer.finish_reason == "tool_calls"
    assert json.loads(call.arguments).keys() == {"input"}
    assert re.fullmatch(pattern, json.loads(call.arguments)["input"])
