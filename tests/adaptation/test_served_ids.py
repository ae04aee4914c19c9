"""On all chat templates that llama.cpp ships: what is learned are the very tokens of requests, and of answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.template_models import TemplateTokenizer, template_model, words_of

from edgellm.adaptation.example import Example
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.rendering import Renderer, encoder
from edgellm.contract.engine import EngineInfo
from edgellm.contract.manager import plugins
from edgellm.runtime.prompt_reader import Begun, PromptReader
from edgellm.sdk.client import EdgeLLM
from edgellm.text.prompt import PromptBuilder
from edgellm.types.message import Message, Tool, ToolCall
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.tuning_data import TrainingChat

RENDERED = {"one": 70, "system": 70, "turns": 70, "thought": 69, "call": 67, "thought and call": 66}  # of 71
TOOL = Tool(
    "get_weather",
    "Tells the weather of a town.",
    {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
)
CALL = ToolCall("get_weather", '{"town": "Bergen"}', "call_abcdef0123456789")
HI, RAIN, RESULT = Message("user", "Hi"), Message("user", "Rain in Bergen?"), Message("tool", "wet", call_id=CALL.id)


def said(text: str, thought: str = "", *calls: ToolCall) -> Message:
    return Message("assistant", text, thought, calls)


CHATS = {
    "one": TrainingChat(1, (HI, said("Hello there"))),
    "system": TrainingChat(
        1, (Message("system", "Be brief."), Message("user", "Is it <|im_end|> </s> raining?"), said("No </s> rain."))
    ),
    "turns": TrainingChat(
        1,
        (
            HI,
            said("Hello there"),
            Message("user", "More"),
            said("\n\nMore:\n1. a\n2. b"),
            Message("user", ""),
            said("No"),
        ),
    ),
    "thought": TrainingChat(1, (HI, said("Hello", "They greet me."), Message("user", "More"), said("No", "Why more?"))),
    "call": TrainingChat(1, (RAIN, said("", "", CALL), RESULT, said("It is wet.")), (TOOL,)),
    "thought and call": TrainingChat(
        1, (RAIN, said("", "I should look.", CALL), RESULT, said("It is wet.", "Wet it is.")), (TOOL,)
    ),
}


@pytest.fixture(scope="module")
def llm() -> Iterator[EdgeLLM]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        yield llm


def served(llm: EdgeLLM, info: EngineInfo, tokenizer: TemplateTokenizer, chat: TrainingChat, place: int) -> list[int]:
    """Tokens of the request for an answer, by the code that a request goes through."""
    llm._session._info = info  # type: ignore[attr-defined]
    llm.__dict__.pop("_prompts", None)
    thinks = any(message.reasoning for message in chat.messages)
    request = llm.request(chat.messages[:place], tools=chat.tools, thinking=thinks)
    begun = PromptReader(tokenizer, info).read(request)
    assert isinstance(begun, Begun)
    return begun.prompt


def learned(example: Example) -> list[tuple[list[int], list[int]]]:
    """Each answer, with all that is before it."""
    bounds = np.flatnonzero(np.diff(np.r_[False, example.supervised, False]))
    tokens = [int(token) for token in example.tokens]
    return [(tokens[:begin], tokens[begin:end]) for begin, end in zip(bounds[::2], bounds[1::2], strict=True)]


@pytest.mark.slow(60)
@pytest.mark.parametrize("vocabulary", ["qwen2", "llama-spm"])
def test_what_is_learned_is_what_is_served(llama_cpp: Path, llm: EdgeLLM, vocabulary: str) -> None:
    words = words_of(llama_cpp / f"models/ggml-vocab-{vocabulary}.gguf")
    templates = sorted((llama_cpp / "models/templates").glob("*.jinja"))
    assert len(templates) == 71
    rendered, n_answers = dict.fromkeys(CHATS, 0), 0

    for path in templates:
        info, tokenizer = template_model(path.read_text("utf-8"), words)
        renderer = Renderer(info, encoder(tokenizer), PromptBuilder(info), length=4096)
        for name, chat in CHATS.items():
            findings = Findings()
            examples = renderer.examples(chat, findings)
            if findings.report.n_refused:
                assert not examples, (path.name, name)
                continue
            rendered[name] += 1
            answers = [answer for example in examples for answer in learned(example)]
            places = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
            assert [before for before, _ in answers] == [
                served(llm, info, tokenizer, chat, place) for place in places
            ], (path.name, name)
            assert all(answer[-1] in info.eos_ids for _, answer in answers), (path.name, name)
            n_answers += len(answers)

    assert {name: rendered[name] for name in CHATS} == RENDERED
    assert n_answers > 700


@pytest.mark.slow(20)
def test_a_real_model_is_asked_with_the_tokens_that_were_learned(smollm2: str) -> None:
    """Through llama.cpp's own tokenizer; the server counts as many tokens of each prompt."""
    plan = LaunchPlan("gguf", Artifact("gguf", (smollm2,), "SmolLM2"), Settings(1024, n_slots=1))
    engine = plugins().backend("gguf").open(plan)
    renderer = Renderer(engine.info, encoder(engine.tokenizer), PromptBuilder(engine.info), length=1024)
    with EdgeLLM(plan) as llm:
        for name, chat in CHATS.items():
            findings = Findings()
            examples = renderer.examples(chat, findings)
            assert not findings.report.n_refused, name
            answers = [answer for example in examples for answer in learned(example)]
            places = [place for place, message in enumerate(chat.messages) if message.role == "assistant"]
            for (before, answer), place in zip(answers, places, strict=True):
                request = llm.request(chat.messages[:place], tools=chat.tools)
                assert PromptReader(engine.tokenizer, engine.info).read(request).prompt == before
                asked = llm.chat(chat.messages[:place], tools=chat.tools, max_tokens=1)
                assert asked.usage.prompt_tokens == len(before)
                assert answer[-1] in engine.info.eos_ids
    engine.close()
