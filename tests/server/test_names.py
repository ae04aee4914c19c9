"""The names by which clients ask for the model that is served."""

from __future__ import annotations

import pytest
from support.live_server import Servers
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.server.names import MAX_ALIASES, ModelNames


def named(*aliases: str, any_name: bool = False) -> ModelNames:
    return ModelNames.of(aliases, any_name=any_name, model="qwen3-4b")


@pytest.mark.parametrize("name", ["qwen3-4b", "default", "edgellm", "gpt-4o", "qwen3-4b:latest", "gpt-4o:latest"])
def test_the_id_and_the_aliases_mean_the_model(name: str) -> None:
    assert named("gpt-4o=auto").include(name, "qwen3-4b")


@pytest.mark.parametrize("name", ["", "qwen3", "GPT-4o", "latest", ":latest", "gpt-4o:8b"])
def test_no_other_name_does(name: str) -> None:
    assert not named("gpt-4o=auto").include(name, "qwen3-4b")
    assert named(any_name=True).include(name, "qwen3-4b")


@pytest.mark.parametrize("alias", ["a=auto", "a=qwen3-4b", "a", "a:latest=auto"])
def test_ways_to_write_an_alias(alias: str) -> None:
    assert named(alias, alias).aliases == ("a",)


@pytest.mark.parametrize("alias", ["", "=auto", " a=auto", "a\n=auto", "x" * 129, "a=qwen3-8b"])
def test_what_is_no_alias_is_refused(alias: str) -> None:
    with refuses(UsageError, param="alias"):
        named(alias)


def test_only_so_many_aliases() -> None:
    with refuses(UsageError, param="alias"):
        named(*(f"n{number}" for number in range(MAX_ALIASES + 1)))


def test_aliases_over_http(serve: Servers) -> None:
    live = serve(names=ModelNames(("gpt-4o",)))

    assert [model["id"] for model in live.http.get("/v1/models").json()["data"]] == ["echo", "gpt-4o"]
    assert live.http.get("/models/gpt-4o").json()["id"] == "gpt-4o"
    assert live.chat("hello", model="gpt-4o").json()["model"] == "echo"
    assert live.chat("hello", model="gpt-5").status_code == 404


def test_any_name_over_http(serve: Servers) -> None:
    assert serve(names=ModelNames(any=True)).chat("hello", model="claude").status_code == 200


def test_a_name_is_added_and_taken_away() -> None:
    names = named("a=auto").with_alias("b:latest")

    assert names.aliases == ("a", "b")
    assert names.with_alias("b") == names
    assert names.without_alias("a:latest").aliases == ("b",)
    assert names.without_alias("c") == names


@pytest.mark.parametrize("alias", ["", ":latest", " a", "a\n", "x" * 129])
def test_what_is_no_name_is_not_added(alias: str) -> None:
    with refuses(UsageError):
        named().with_alias(alias)


def test_only_so_many_names_are_added() -> None:
    with refuses(UsageError):
        named(*(f"a{number}" for number in range(MAX_ALIASES))).with_alias("b")
