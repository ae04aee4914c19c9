"""Who may change models by Ollama's API, and what changes."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.live_server import Live, Servers, echo_plan
from support.waiting import PATIENCE_S, wait_until

from edgellm.app import launch, removal
from edgellm.errors import SourceUnreachable, UsageError
from edgellm.server.dialects.ollama import management
from edgellm.server.dialects.ollama.management import Management
from edgellm.server.names import ModelNames
from edgellm.store.library import Library
from edgellm.types.model import ModelFile


@pytest.fixture
def managed(serve: Servers) -> Live:
    return serve(allow_manage=True, isolate=False)


def delete(live: Live, name: str, **more: Any) -> Any:
    return live.http.request("DELETE", "/api/delete", json={"model": name}, **more)


def copy(live: Live, source: str, destination: str, **more: Any) -> Any:
    return live.post("/api/copy", {"source": source, "destination": destination}, **more)


def test_what_is_served_is_here(live: Live) -> None:
    sent = [json.loads(line) for line in live.post("/api/pull", {"name": "echo:latest"}).text.splitlines()]

    assert sent == [{"status": "pulling manifest"}, {"status": "success"}]
    assert live.post("/api/pull", {"model": "echo", "stream": False}).json() == {"status": "success"}


@pytest.mark.parametrize("allowed", [False, True])
def test_what_is_served_with_an_adapter_is_here_by_both_names(allowed: bool) -> None:
    """It is listed as the first of them, which clients pull before they ask it."""
    plan = SimpleNamespace(served_as="tiny:mail")
    served: Any = SimpleNamespace(id="tiny", names=ModelNames(), llm=SimpleNamespace(plan=plan))
    here = Management(served, allowed=allowed)

    assert [here.has(name) for name in ("tiny:mail", "tiny", "tiny:other")] == [True, True, False]


def test_any_name_is_not_what_is_served_where_models_are_fetched(serve: Servers) -> None:
    asked = {"model": "/etc/passwd", "stream": False}
    anything = ModelNames(any=True)

    assert serve(names=anything, isolate=False).post("/api/pull", asked).json() == {"status": "success"}
    managed = serve(names=anything, allow_manage=True, isolate=False)
    assert managed.post("/api/pull", asked).status_code == 400
    assert managed.post("/api/pull", {**asked, "model": "echo"}).json() == {"status": "success"}


def test_nothing_changes_unless_the_server_allows_it(live: Live) -> None:
    for answer in (live.post("/api/pull", {"model": "qwen3-4b"}), copy(live, "echo", "b"), delete(live, "b")):
        assert answer.status_code == 403
        assert "--allow-manage" in answer.json()["error"]


@pytest.mark.parametrize("name", ["origin", "sec-fetch-site"])
def test_nothing_changes_for_a_browser(managed: Live, name: str) -> None:
    headers = {"origin": managed.url, "sec-fetch-site": "same-origin"}
    of_browser = {name: headers[name]}

    for answer in (
        managed.post("/api/pull", {"model": "qwen3-4b"}, headers=of_browser),
        copy(managed, "echo", "b", headers=of_browser),
        delete(managed, "b", headers=of_browser),
    ):
        assert answer.status_code == 403
        assert "browser" in answer.json()["error"]


def test_a_copy_is_a_name_until_it_is_deleted(managed: Live) -> None:
    assert copy(managed, "echo", "gpt:latest").status_code == 200
    assert managed.post("/api/show", {"model": "gpt"}).status_code == 200
    assert delete(managed, "gpt").status_code == 200
    assert managed.post("/api/show", {"model": "gpt"}).status_code == 404


@pytest.mark.parametrize(("source", "destination", "status"), [("nobody", "b", 404), ("echo", " b", 400)])
def test_what_cannot_be_copied(managed: Live, source: str, destination: str, status: int) -> None:
    assert copy(managed, source, destination).status_code == status


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "./m.gguf",
        "file:/etc/passwd",
        "https://127.0.0.1/x.gguf",
        "http://169.254.169.254/x.gguf",
        "ollama://127.0.0.1/x",
        "pypi://p/x",
        "hf://owner/repo:Q4_K_M",
    ],
)
def test_no_path_and_no_address_is_fetched(managed: Live, name: str) -> None:
    for more in ({}, {"stream": False}):
        answer = managed.post("/api/pull", {"model": name, **more})
        assert (answer.status_code, "is not fetched for clients" in answer.json()["error"]) == (400, True)


def test_the_machine_is_not_looked_at_to_understand_a_name(managed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[int]()
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda: looked.append(1))

    assert managed.post("/api/pull", {"model": "/etc/passwd"}).status_code == 400
    assert not looked


@pytest.mark.parametrize("name", ["hf.co/../x:Q4", "hf.co/u:p@host/b", "hf.co/o/r/../x.gguf", "hf.co/o"])
def test_a_malformed_name_of_the_hub_is_the_clients_error(managed: Live, name: str) -> None:
    answer = managed.post("/api/pull", {"model": name})

    assert (answer.status_code, "u:p" in answer.text) == (400, False)


def test_no_name(managed: Live) -> None:
    assert managed.post("/api/pull", {}).status_code == 404
    assert managed.http.request("DELETE", "/api/delete", json={}).status_code == 404


def fetching(monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
    monkeypatch.setattr(launch, "plan", plan)


def test_progress_of_a_download(managed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(model: str, _: Any, *, progress: Any, approve: Any) -> Any:
        assert model == "hf://owner/repo:Q4_K_M"
        progress(0, None, "reading the header")
        approve(SimpleNamespace(file=ModelFile("hf://owner/repo/m.gguf", "Q4_K_M", sha256="ab" * 32)))
        for done in (0, 10, 4 << 20, 5 << 20):
            progress(done, 5 << 20, "m Q4_K_M")
        return echo_plan(), None

    fetching(monkeypatch, plan)
    sent = managed.post("/api/pull", {"model": "hf.co/owner/repo:Q4_K_M"}).text.splitlines()
    begun, reading, *told, done = map(json.loads, sent)

    assert (begun["status"], done["status"]) == ("pulling manifest", "success")
    assert reading == {"status": "reading the header"}
    assert [line["completed"] for line in told] == [0, 4 << 20, 5 << 20]
    assert {(line["status"], line["digest"], line["total"]) for line in told} == {
        ("pulling abababababab", "sha256:" + "ab" * 32, 5 << 20)
    }


def test_a_download_that_fails(managed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(*_: Any, **__: Any) -> Any:
        raise SourceUnreachable("nobody answers")

    fetching(monkeypatch, plan)
    for _ in range(management.MOST_DOWNLOADS + 1):  # what failed is no longer counted
        *_, last = managed.post("/api/pull", {"model": "qwen3-4b"}).text.splitlines()
        assert "nobody answers" in json.loads(last)["error"]
    whole = managed.post("/api/pull", {"model": "qwen3-4b", "stream": False})
    assert whole.status_code == SourceUnreachable.http_status


@dataclass
class Held:
    """Downloads that go on until they are told to."""

    go_on: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def plan(self, model: str, _: Any, *, progress: Any, approve: Any) -> Any:
        self.begun.append(model)
        try:
            self.go_on.wait(PATIENCE_S)
            progress(0, None, "reading the header")
            return echo_plan(), None
        except UsageError:
            self.ended.append(model)
            raise


def abort(live: Live, name: str) -> None:
    """Ask for a model, and leave when the first line is here."""
    with live.http.stream("POST", "/api/pull", json={"model": name}) as answer:
        assert answer.status_code == 200
        next(answer.iter_raw())


def test_a_download_that_nobody_awaits_counts_until_it_ends(managed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    fetching(monkeypatch, held.plan)
    names = [f"hf.co/o/r{i}:Q4_0" for i in range(management.MOST_DOWNLOADS)]
    for name in names:
        abort(managed, name)
    refused = [managed.post("/api/pull", {"model": "hf.co/o/x:Q4_0", "stream": s}).status_code for s in (True, False)]
    held.go_on.set()
    wait_until(lambda: len(held.ended) == len(names))

    assert refused == [429, 429]
    assert sorted(held.begun) == sorted(held.ended)
    wait_until(lambda: managed.post("/api/pull", {"model": names[0]}).status_code == 200)


def test_a_model_is_fetched_once_at_a_time(managed: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    fetching(monkeypatch, held.plan)
    with managed.http.stream("POST", "/api/pull", json={"model": "hf.co/o/r:Q4_0"}) as first:
        second = managed.post("/api/pull", {"model": "hf.co/o/r:Q4_0"})
        held.go_on.set()
        *_, last = first.iter_lines()

    assert (second.status_code, "already" in second.json()["error"]) == (429, True)
    assert json.loads(last) == {"status": "success"}


def stored(model_id: str, folder: Path) -> Any:
    return SimpleNamespace(model_id=model_id, quant="Q8_0", folder=folder, files=())


def test_deleting(managed: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = []
    monkeypatch.setattr(Library, "installed", lambda _: [stored("m", tmp_path), stored("echo", tmp_path)])
    monkeypatch.setattr(Library, "remove_entry", lambda _, entry: gone.append(entry.model_id))
    monkeypatch.setattr(removal, "holders", lambda _: [])

    assert delete(managed, "m:latest").status_code == 200
    assert delete(managed, "m:Q8_0").status_code == 200
    assert delete(managed, "nobody").status_code == 404
    assert gone == ["m", "m"]


def test_what_is_served_stays(managed: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside = SimpleNamespace(model_id="x", quant="", paths=(str(tmp_path / "m.gguf"),))

    assert management._is_of(inside, stored("m", tmp_path))  # type: ignore[arg-type]
    assert not management._is_of(inside, stored("m", tmp_path / "other"))  # type: ignore[arg-type]
    monkeypatch.setattr(Library, "installed", lambda _: [SimpleNamespace(model_id="echo", quant="", folder=tmp_path)])
    answer = delete(managed, "echo")
    assert (answer.status_code, "is served here" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"),
        ("POST", "/api/push"),
        ("HEAD", "/api/blobs/sha256:00"),
        ("POST", "/api/blobs/sha256:00"),
        ("POST", "/api/web_search"),
        ("POST", "/api/web_fetch"),
    ],
)
def test_what_is_not_served_says_why(live: Live, method: str, path: str) -> None:
    answer = live.http.request(method, path, content=b"{}" if method == "POST" else None)

    assert answer.status_code == 501
    assert method == "HEAD" or answer.json()["error"]
