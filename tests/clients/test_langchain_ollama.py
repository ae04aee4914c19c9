"""langchain-ollama, unmodified."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel


class Place(BaseModel):
    """A place."""

    colour: Literal["red", "green"]


@tool
def weather(city: Literal["Bonn", "Rome"]) -> str:
    """Tell the weather."""
    return f"Sunny in {city}."


def chat(server: Any, **fields: Any) -> ChatOllama:
    options = {"num_predict": 50, "seed": 1, "validate_model_on_init": True}
    return ChatOllama(base_url=server.root, model=server.model, **{**options, **fields})


def test_invoke_and_stream(server: Any) -> None:
    whole = chat(server).invoke("Say hello.")
    streamed = "".join(chunk.content for chunk in chat(server).stream("Say hello."))

    assert streamed
    assert not server.is_echo or whole.content == streamed
    assert whole.usage_metadata["output_tokens"] > 0
    assert OllamaLLM(base_url=server.root, model=server.model, num_predict=10).invoke("Say hello.")


def test_structured_output(server: Any) -> None:
    assert isinstance(chat(server).with_structured_output(Place, method="json_schema").invoke("Where?"), Place)


def test_bound_tools_are_called_and_their_results_go_back(server: Any) -> None:
    """This API cannot force a call. Beside a form the model writes that or a call, and with some seed a whole call."""
    form = {"format": Place.model_json_schema(), "temperature": 1.0, "num_predict": 200}
    asked = [("user", "Say hello.")]
    answers = (chat(server, **form, seed=seed).bind_tools([weather]).invoke(asked) for seed in range(40))
    called = next(
        answer for answer in answers if answer.tool_calls and answer.response_metadata["done_reason"] == "stop"
    )
    result = weather.invoke(called.tool_calls[0])
    answer = chat(server).bind_tools([weather]).invoke([*asked, called, result, ("user", "Thanks.")])

    assert result.content in ("Sunny in Bonn.", "Sunny in Rome.")
    assert answer.content or answer.tool_calls


def test_embeddings(server: Any) -> None:
    embeddings = OllamaEmbeddings(base_url=server.root, model=server.model)

    assert len(embeddings.embed_documents(["a", "b"])) == 2
