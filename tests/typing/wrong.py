"""Wrong calls: each is an error of the rule that its comment names. Where it is none, the comment is an error."""
# ruff: noqa: B015, B018

from __future__ import annotations

from edgellm import EdgeLLM, Message, NoSuchError, Sampling  # pyright: ignore[reportAttributeAccessIssue]


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
    llm.chat("Hello", logit_bias={65: 1.0})  # pyright: ignore[reportArgumentType]
    llm.chat("Hello").txt  # pyright: ignore[reportAttributeAccessIssue]
    llm.stream("Hello", top_k=1.5)  # pyright: ignore[reportArgumentType]
    for event in llm.stream("Hello"):
        event.text  # pyright: ignore[reportAttributeAccessIssue]
    llm.state == "redy"  # pyright: ignore[reportUnnecessaryComparison]


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
    Message("user")  # pyright: ignore[reportCallIssue]
    NoSuchError
