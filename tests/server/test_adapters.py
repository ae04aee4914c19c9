"""LoRA adapters over HTTP: `base:adapter` in every dialect, the fields, and loading them where that is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.live_server import Live, Servers
from support.loras import tiny_with

from edgellm.app import launch
from edgellm.catalog.identify import identify
from edgellm.server.names import ModelNames
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.store.content_hash import content_hash
from edgellm.types.options import LaunchOptions

TEXT = "in the on the other"
MESSAGES = [{"role": "user", "content": TEXT}]
BASE = "tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return tiny_with(tmp_path_factory.mktemp("served"), "mail", "tone", "late")


@pytest.fixture(scope="module")
def served(made: tuple[Path, dict[str, Path]]) -> Iterator[Live]:
    """The tests leave it as it was."""
    model, loras = made
    with pytest.MonkeyPatch.context() as patch:
        servers = Servers(patch)
        plan, _ = launch.plan(str(model), LaunchOptions.of(slots=2, threads=1, adapters=[loras["mail"], loras["tone"]]))
        yield servers(plan, names=ModelNames(("gpt-4o",)), allow_manage=True)
        servers.close()


def chat(served: Live, model: str | None = None, **fields: Any) -> str:
    return answered(served, "/v1/chat/completions", model, messages=MESSAGES, max_tokens=12, **fields)["choices"][0][
        "message"
    ]["content"]


def answered(served: Live, path: str, model: str | None = None, **body: Any) -> Any:
    response = served.post(path, {"temperature": 0, **({"model": model} if model else {}), **body})
    assert response.status_code == 200, response.text
    return response.json()


def completed(served: Live, model: str) -> str:
    text: str = answered(served, "/v1/completions", model, prompt=TEXT, max_tokens=12)["choices"][0]["text"]
    return text


def anthropic(served: Live, model: str) -> str:
    body = answered(served, "/v1/messages", model, messages=MESSAGES, max_tokens=12)
    assert body["model"] == model
    text: str = body["content"][0]["text"]
    return text


def responses(served: Live, model: str) -> str:
    body = answered(served, "/v1/responses", model, input=TEXT, max_output_tokens=12, store=False)
    assert body["model"] == model
    text: str = body["output"][0]["content"][0]["text"]
    return text


def ollama(served: Live, model: str) -> str:
    options = {"temperature": 0, "num_predict": 12}
    text: str = answered(served, "/api/chat", model, messages=MESSAGES, stream=False, options=options)["message"][
        "content"
    ]
    return text


def native(served: Live, model: str) -> str:
    body = answered(served, "/completion", model, prompt=TEXT, n_predict=12)
    assert body["model"] == model
    text: str = body["content"]
    return text


def test_the_model_is_listed_with_each_adapter(served: Live) -> None:
    ids = [model["id"] for model in served.http.get("/v1/models").json()["data"]]
    assert ids == [BASE, "gpt-4o", f"{BASE}:mail", f"{BASE}:tone"]
    assert served.http.get(f"/v1/models/{BASE}:mail").json()["id"] == f"{BASE}:mail"
    assert served.http.get(f"/v1/models/{BASE}:none").status_code == 404
    names = [model["name"] for model in served.http.get("/api/tags").json()["models"]]
    assert f"{BASE}:mail" in names


@pytest.mark.parametrize("ask", [chat, completed, anthropic, responses, ollama, native])
def test_every_dialect_takes_the_adapter_s_id_as_the_model(served: Live, ask: Any) -> None:
    base, mail, tone = (ask(served, model) for model in (BASE, f"{BASE}:mail", f"{BASE}:tone"))
    assert len({base, mail, tone}) == 3
    assert ask(served, BASE) == base


def test_any_name_of_the_model_has_its_adapters(served: Live) -> None:
    mail = chat(served, f"{BASE}:mail")
    for name in ("gpt-4o:mail", "default:mail", f"{BASE}:mail:latest"):
        assert chat(served, name) == mail
    assert chat(served, "gpt-4o") == chat(served, f"{BASE}:latest") == chat(served, BASE) == chat(served)
    assert served.chat(TEXT, model=f"{BASE}:none").json()["error"]["code"] == "model_not_found"


def test_fields_name_adapters_and_their_scales(served: Live) -> None:
    base, mail = chat(served), chat(served, f"{BASE}:mail")
    assert chat(served, adapters=[{"name": "mail"}]) == mail
    assert chat(served, adapters=[{"name": "mail", "scale": 0.0}]) == base
    assert chat(served, f"{BASE}:mail", adapters=[{"name": "mail", "scale": 0.0}]) == base
    both = chat(served, f"{BASE}:mail", adapters=[{"name": "tone"}])
    assert both == chat(served, adapters=[{"name": "tone"}, {"name": "mail"}])
    assert both not in (base, mail)
    plain = answered(served, "/v1/completions", prompt=TEXT, max_tokens=12, adapters=[{"name": "mail"}])
    assert plain["choices"][0]["text"] == completed(served, f"{BASE}:mail")


def test_a_stream_says_which_it_is(served: Live) -> None:
    body = {"model": f"{BASE}:mail", "messages": MESSAGES, "max_tokens": 4, "stream": True}
    lines = served.post("/v1/chat/completions", body).text.splitlines()
    assert all(f'"model":"{BASE}:mail"' in line for line in lines if line.startswith("data: {"))


def test_llama_server_s_field_goes_by_numbers(served: Live) -> None:
    told = served.http.get("/lora-adapters").json()
    assert [(one["id"], one["name"], one["path"], one["scale"]) for one in told] == [
        (0, "mail", "mail.gguf", 0.0), (1, "tone", "tone.gguf", 0.0),
    ]  # fmt: skip

    def by_ids(lora: list[dict[str, float]]) -> str:
        text: str = answered(served, "/completion", prompt=TEXT, n_predict=12, lora=lora)["content"]
        return text

    assert by_ids([{"id": 1, "scale": 1.0}]) == native(served, f"{BASE}:tone")
    assert by_ids([]) == by_ids([{"id": 0, "scale": 0.0}]) == native(served, BASE)
    refused = served.post("/completion", {"prompt": TEXT, "lora": [{"id": 2, "scale": 1.0}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_adapter")


@pytest.mark.parametrize(
    ("adapters", "status", "code"),
    [
        ([{"name": "none"}], 404, "unknown_adapter"), ([{"name": "../x"}], 400, "usage_error"),
        ([{"name": "mail"}, {"name": "mail"}], 400, "usage_error"),
        ([{"name": "mail", "scale": 1e9}], 400, "usage_error"),
        ("mail", 400, "usage_error"), ([{}], 400, "usage_error"), ([{"name": "mail"}] * 17, 400, "usage_error"),
    ],
)  # fmt: skip
def test_what_names_no_adapter_is_refused(served: Live, adapters: Any, status: int, code: str) -> None:
    for stream in (False, True):
        refused = served.chat(TEXT, adapters=adapters, stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert refused.json()["error"]["param"].startswith("adapters")


def keep(model: Path, name: str, lora: Path) -> None:
    """In the store, as `edgellm tune` leaves it."""
    artifact = identify(str(model))
    origin = AdapterOrigin(name, artifact.model_id, artifact.quant, content_hash(artifact), artifact.path)
    AdapterStore().add(origin, lambda path: path.write_bytes(lora.read_bytes()) and None)


def test_a_stored_adapter_is_loaded_and_dropped_while_it_serves(
    served: Live, made: tuple[Path, dict[str, Path]]
) -> None:
    model, loras = made
    keep(model, "late", loras["late"])
    assert served.post("/edgellm/adapters", {"name": "none"}).json()["error"]["code"] == "unknown_adapter"
    assert served.post("/edgellm/adapters", {"name": str(loras["late"])}).status_code == 404
    loaded = served.post("/edgellm/adapters", {"name": "late"})
    assert loaded.status_code == 200, loaded.text
    assert [one["id"] for one in loaded.json()["adapters"]] == [f"{BASE}:{name}" for name in ("mail", "tone", "late")]
    assert served.http.get("/edgellm/adapters").json() == loaded.json()
    assert chat(served, f"{BASE}:late") not in (chat(served), chat(served, f"{BASE}:mail"))
    assert served.post("/edgellm/adapters", {"name": "late"}).status_code == 400
    left = served.http.delete("/edgellm/adapters/late")
    assert left.status_code == 200
    assert "late" not in [adapter["name"] for adapter in left.json()["adapters"]]
    assert served.http.delete("/edgellm/adapters/late").status_code == 404
    assert served.chat(TEXT, model=f"{BASE}:late").status_code == 404
    assert [model["id"] for model in served.http.get("/v1/models").json()["data"]][-1] == f"{BASE}:tone"


def test_a_browser_changes_nothing(served: Live) -> None:
    own = {"origin": served.url, "sec-fetch-site": "same-origin"}
    for response in (
        served.post("/edgellm/adapters", {"name": "late"}, headers=own),
        served.http.delete("/edgellm/adapters/mail", headers=own),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (403, "not_allowed")
    assert chat(served, f"{BASE}:mail")


def test_nothing_is_changed_unless_that_is_allowed(live: Live) -> None:
    for response in (
        live.post("/edgellm/adapters", {"name": "late"}),
        live.http.delete("/edgellm/adapters/mail"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (403, "not_allowed")
    assert live.http.get("/edgellm/adapters").json() == {"adapters": []}


def test_a_model_that_is_served_with_an_adapter_answers_with_it_where_nothing_is_said(
    made: tuple[Path, dict[str, Path]], serve: Servers
) -> None:
    model, loras = made
    keep(model, "late", loras["late"])
    plan, _ = launch.plan(f"{BASE}:late", LaunchOptions.of(threads=1))
    server = serve(plan, allow_manage=True)
    late, base = chat(server, f"{BASE}:late"), chat(server, BASE)
    assert late != base
    assert chat(server) == chat(server, "default") == late
    assert chat(server, adapters=[]) == base
    assert server.http.delete("/edgellm/adapters/late").json()["error"]["code"] == "usage_error"
    assert server.llm.chat(TEXT, temperature=0, max_tokens=12).text == late
    assert server.llm.chat(TEXT, temperature=0, max_tokens=12, adapters=()).text == base


def test_what_is_served_is_the_first_of_each_list_and_names_its_answers(
    made: tuple[Path, dict[str, Path]], serve: Servers
) -> None:
    model, loras = made
    keep(model, "late", loras["late"])
    plan, _ = launch.plan(f"{BASE}:late", LaunchOptions.of(threads=1, adapters=[loras["mail"]]))
    server, late = serve(plan, names=ModelNames(("gpt-4o",))), f"{BASE}:late"

    listed = [late, BASE, "gpt-4o", f"{BASE}:mail"]
    assert [one["id"] for one in server.http.get("/v1/models").json()["data"]] == listed
    told = server.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert [told["first_id"], *[one["id"] for one in told["data"]]] == [late, *listed]
    assert [one["name"] for one in server.http.get("/api/tags").json()["models"]] == listed
    assert [one["name"] for one in server.http.get("/api/ps").json()["models"]] == [late]

    def names(**asked: Any) -> set[str]:
        chat_body = {"messages": MESSAGES, "max_tokens": 1, **asked}
        posted = {
            "/v1/chat/completions": chat_body,
            "/v1/messages": chat_body,
            "/v1/completions": {"prompt": TEXT, "max_tokens": 1, **asked},
            "/v1/responses": {"input": TEXT, "max_output_tokens": 1, "store": False, **asked},
            "/completion": {"prompt": TEXT, "n_predict": 1, **asked},
        }
        if asked.get("model", late) == late:  # otherwise it names what was asked for, as Ollama does
            posted["/api/chat"] = {"messages": MESSAGES, "stream": False, "options": {"num_predict": 1}, **asked}
        return {server.post(path, body).json()["model"] for path, body in posted.items()}

    assert names() == names(model="default") == names(model="gpt-4o") == names(model=late) == {late}
    assert names(model=BASE) == {BASE}
    assert names(model=f"{BASE}:mail") == {f"{BASE}:mail"}
    alone = answered(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=1, adapters=[])
    assert alone["model"] == answered(server, "/completion", prompt=TEXT, n_predict=1, lora=[])["model"] == BASE
    settings = [
        answered(server, "/completion", prompt=TEXT, n_predict=1, **asked)["generation_settings"]["model"]
        for asked in ({}, {"model": BASE}, {"lora": []})
    ]
    assert settings == [late, BASE, BASE]
    props = server.http.get("/props").json()
    assert [props["model_alias"], props["default_generation_settings"]["params"]["model"]] == [late, late]
    plans = [server.http.get("/edgellm/plan", params=asked).json() for asked in ({}, {"model": BASE})]
    assert [told["model"] for told in plans] == [late, BASE]
    refused = server.chat(TEXT, model="other").json()["error"]
    assert f"served: {late} (also as default or edgellm or gpt-4o or {BASE} or {BASE}:mail)" in str(refused)


def test_echo_refuses_a_request_with_adapters(live: Live) -> None:
    assert live.chat(TEXT, adapters=[{"name": "mail"}]).json()["error"]["code"] == "unknown_adapter"
