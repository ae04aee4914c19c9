"""Wrong calls: each is an error of the rule that its comment names. Where it is none, the comment is an error."""
# ruff: noqa: B015, B018

from __future__ import annotations

import pydantic

from edgellm import EdgeLLM, Message, NoSuchError, Sampling, tune  # pyright: ignore[reportAttributeAccessIssue]


def choose() -> None:
    EdgeLLM.load()  # pyright: ignore[reportCallIssue]
    EdgeLLM.load("qwen3-4b", qant="Q4_K_M")  # pyright: ignore[reportCallIssue]
    EdgeLLM.load("qwen3-4b", max_memory=[2])  # pyright: ignore[reportArgumentType]
    EdgeLLM.load("qwen3-4b", kv="q7_0")  # pyright: ignore[reportArgumentType]
    EdgeLLM.load("qwen3-4b", progress=print("loading"))  # pyright: ignore[reportArgumentType]
    EdgeLLM.auto(task="chatting")  # pyright: ignore[reportArgumentType]
    EdgeLLM.auto(gpu_layers="some")  # pyright: ignore[reportArgumentType]
    EdgeLLM.auto(quant="Q4_K_M")  # pyright: ignore[reportCallIssue]


def ask(llm: EdgeLLM) -> None:
    llm.chat()  # pyright: ignore[reportCallIssue]
    llm.chat(5)  # pyright: ignore[reportArgumentType]
    llm.chat([{"role": "user", "content": 5}])  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", temprature=0.3)  # pyright: ignore[reportCallIssue]
    llm.chat("Hello", temperature="hot")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", max_tokens="many")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", grammar="{}")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", top_logprobs="all")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", timeout="soon")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", logit_bias=[65])  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", tool_choice="maybe")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", tools=weather)  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", reasoning_effort="hard")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello", n="two")  # pyright: ignore[reportArgumentType]
    llm.chat("Hello").txt  # pyright: ignore[reportAttributeAccessIssue]
    llm.stream("Hello", top_k=1.5)  # pyright: ignore[reportArgumentType]
    for event in llm.stream("Hello"):
        event.text  # pyright: ignore[reportAttributeAccessIssue]
    llm.state == "redy"  # pyright: ignore[reportUnnecessaryComparison]


class Order(pydantic.BaseModel):
    pieces: int


def weather(city: str) -> str:
    return city


def ask_for_objects(llm: EdgeLLM) -> None:
    llm.chat("3 lamps", schema=Order).text  # pyright: ignore[reportAttributeAccessIssue]
    llm.chat("3 lamps", schema=Order(pieces=3))  # pyright: ignore[reportArgumentType, reportCallIssue]
    llm.chat("3 lamps", schema="object")  # pyright: ignore[reportArgumentType, reportCallIssue]
    llm.stream("3 lamps", schema=Order)  # pyright: ignore[reportCallIssue]


def use_tools(llm: EdgeLLM) -> None:
    llm.use_tools("Rain?")  # pyright: ignore[reportCallIssue]
    llm.use_tools("Rain?", tools=["weather"])  # pyright: ignore[reportArgumentType]
    llm.use_tools("Rain?", tools=[weather], round=3)  # pyright: ignore[reportCallIssue]
    llm.use_tools("Rain?", tools=[weather]).text  # pyright: ignore[reportAttributeAccessIssue]
    for step in llm.stream_tools("Rain?", tools=[weather]):
        step.call.name  # pyright: ignore[reportAttributeAccessIssue]


async def ask_later(llm: EdgeLLM) -> None:
    await llm.achat("Hello", seed="one")  # pyright: ignore[reportArgumentType]
    llm.achat("Hello").text  # pyright: ignore[reportAttributeAccessIssue]
    for _ in llm.astream("Hello"):  # pyright: ignore[reportGeneralTypeIssues]
        pass


def read(llm: EdgeLLM) -> None:
    llm.embed(3)  # pyright: ignore[reportArgumentType]
    llm.embed("Hello", dimension=8)  # pyright: ignore[reportCallIssue]
    llm.rerank(["Hello?"], ["Yes."])  # pyright: ignore[reportArgumentType]


def make() -> None:
    Sampling(temprature=0.3)  # pyright: ignore[reportCallIssue]
    Message(content="Hello")  # pyright: ignore[reportCallIssue]
    NoSuchError


def tuning() -> None:
    tune("a", "b.jsonl", method="dpo")  # pyright: ignore[reportArgumentType]
    tune("a", "b.jsonl", nam="mail")  # pyright: ignore[reportCallIssue]
    tune("a", "b.jsonl").model  # pyright: ignore[reportOptionalMemberAccess]
