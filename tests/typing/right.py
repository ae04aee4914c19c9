"""Calls as the docs show them: the type of all that comes back is known. Read by basedpyright, never run."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, assert_type

import numpy as np
import numpy.typing as npt
import pydantic

from edgellm import (
    Completion,
    ContextOverflow,
    Delta,
    Done,
    EdgeLLM,
    EdgeLLMError,
    Grammar,
    IncompleteAnswer,
    Message,
    NamedTool,
    Prefill,
    Sampling,
    TimedOut,
    Tool,
    ToolCall,
    TooManyRounds,
    Tuned,
    TuneEvaluation,
    TuneFinished,
    TuneProgress,
    TuneSample,
    TuneStarted,
    TuneStop,
    WorkerCrashed,
    atune,
    plan_tuning,
    tune,
)
from edgellm.types.event import Choice
from edgellm.types.logprob import TokenLogprob
from edgellm.types.tool_use import ToolResult, ToolUse


class Order(pydantic.BaseModel):
    pieces: int


@dataclasses.dataclass
class Place:
    city: str


def choose() -> None:
    with EdgeLLM.auto(
        task="code", ctx=4096, min_tps=5, max_memory="2GiB", backend="gguf", slots=2, gpu_layers="all", kv="q8_0"
    ) as llm:
        assert_type(llm, EdgeLLM)
        assert_type(llm.state, Literal["loading", "ready", "hung", "reloading", "failed", "closed"])
        assert_type(llm.plan.artifact.model_id, str)
        assert_type(llm.info.n_ctx, int)
        assert_type(llm.explain(), str)
    EdgeLLM.load("qwen3-4b", quant="Q4_K_M", threads=4, max_memory=2 * 1024**3, gpu_layers=10, offline=True)
    EdgeLLM.load("tiny.gguf", options={"head": "q8"}, isolate=False, progress=lambda done, total, what: print(what))


def ask(llm: EdgeLLM) -> None:
    answer = llm.chat("Hello", max_tokens=10, stop="END", timeout=30, temperature=0, top_p=0.9, seed=None)
    assert_type(answer, Completion)
    assert_type(answer.text, str)
    assert_type(answer.finish_reason, Literal["stop", "length", "tool_calls", "cancelled"])
    assert_type(answer.usage.completion_tokens, int)
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    llm.chat(conversation, logit_bias=((65, -100.0),), stop=["a", "b"])
    llm.chat(conversation, logit_bias={65: -100.0})
    llm.chat(conversation, logit_bias={"65": -100.0})
    llm.chat([Message("user", "Hello")], grammar=Grammar.of_schema({"type": "object"}), top_logprobs=3)
    assert_type(answer.logprobs, tuple[TokenLogprob, ...])
    assert_type(llm.chat("Hello", n=3, thinking=True, reasoning_effort="low").choices, tuple[Choice, ...])
    request = llm.request(conversation, sampling=Sampling(temperature=0.2, top_k=40), max_tokens=5)
    events = llm.generate(request, timeout=2.5)
    for event in events:
        assert_type(event, Delta | Done | Prefill)
    events.close()


def ask_for_objects(llm: EdgeLLM) -> None:
    assert_type(llm.chat("3 lamps", schema=Order, max_tokens=50), Order)
    assert_type(llm.chat("3 lamps", schema=list[Order]), list[Order])
    assert_type(llm.chat("3 lamps", schema=pydantic.TypeAdapter(dict[str, int])), dict[str, int])
    assert_type(llm.chat("Where?", schema=Place).city, str)
    assert_type(llm.chat("3 lamps", schema={"type": "object"}, temperature=0), Any)
    assert_type(llm.chat("Hello", schema=None), Completion)


def weather(city: str, days: int = 1) -> str:
    return f"{city} {days}"


async def later(city: str) -> str:
    return city


def use_tools(llm: EdgeLLM) -> None:
    tool = Tool("now", "What time it is.", {"type": "object"})
    described = {"type": "function", "function": {"name": "then", "parameters": {"type": "object"}}}
    answer = llm.chat("Rain?", tools=[weather, tool, described], tool_choice=NamedTool("weather"))
    assert_type(answer.calls, tuple[ToolCall, ...])
    history = [Message("user", "Rain?"), answer.message, Message("tool", "no", call_id=answer.calls[0].id)]
    llm.chat(history, tools=[weather], tool_choice="none", parallel_tool_calls=False)
    llm.chat(
        [
            {"role": "user", "content": [{"type": "text", "text": "Rain?"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "weather"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "no"},
        ]
    )
    use = llm.use_tools("Rain?", tools=[weather], rounds=3, timeout=60, temperature=0)
    assert_type(use, ToolUse)
    assert_type(use.answer.text, str)
    assert_type(use.results[0].failed, bool)
    for step in llm.stream_tools(list(use.messages), tools=[weather], tool_choice="required"):
        assert_type(step, Delta | Done | ToolResult)


def stream(llm: EdgeLLM) -> None:
    events = llm.stream("Hello", min_p=0.05, repetition_penalty=1.1)
    for event in events:
        if isinstance(event, Delta):
            assert_type(event.text, str)
        else:
            assert_type(event, Done)
            assert_type(event.timings.decode_s, float)
    events.close()


async def ask_later(llm: EdgeLLM) -> None:
    async with llm:
        assert_type(await llm.achat("Hello", timeout=5, temperature=0.7), Completion)
        assert_type(await llm.achat("3 lamps", schema=Order), Order)
        assert_type(await llm.achat("3 lamps", schema={"type": "object"}), Any)
        assert_type(await llm.ause_tools("Rain?", tools=[later, weather]), ToolUse)
        async for step in llm.astream_tools("Rain?", tools=[later]):
            assert_type(step, Delta | Done | ToolResult)
        events = llm.astream("Hello", top_k=5)
        async for event in events:
            assert_type(event, Delta | Done)
        await events.aclose()
        assert_type(await llm.aembed("Hello"), npt.NDArray[np.float32])


def read(llm: EdgeLLM) -> None:
    assert_type(llm.embed("Hello"), npt.NDArray[np.float32])
    assert_type(llm.embed(["Hello", [104, 105]], dimensions=64, timeout=1), npt.NDArray[np.float32])
    assert_type(llm.rerank("Hello?", ["Yes.", "No."]), npt.NDArray[np.float32])


def mend(llm: EdgeLLM) -> None:
    try:
        llm.chat("Hello")
    except ContextOverflow as error:
        assert_type(error.n_prompt, int)
    except IncompleteAnswer as error:
        assert_type(error.text, str)
    except TooManyRounds as error:
        assert_type(error.rounds, int)
    except TimedOut as error:
        assert_type(error.timeout, float)
    except WorkerCrashed as error:
        assert_type(error.reason, str)
    except EdgeLLMError as error:
        assert_type(error.hint, str)


def tuning() -> None:
    stop = TuneStop()

    def tell(event: TuneStarted | TuneProgress | TuneEvaluation | TuneSample | TuneFinished) -> None:
        if isinstance(event, TuneProgress):
            assert_type(event.loss, float)

    assert_type(tune("a", "b.jsonl", name="mail", time="30m", method="rslora", on_event=tell, stop=stop), Tuned | None)
    assert_type(plan_tuning("a", "b.jsonl", max_memory="2GiB").choice.footprint.needed_bytes, int)


async def tuning_later() -> None:
    assert_type(await atune("a", "b.jsonl", epochs=2), Tuned | None)
