"""Options in Python: the keywords that an editor knows are all there are, and errors name them as their reader does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import gguf_writer
from support.refusals import refuses

from edgellm.cli.main import cli
from edgellm.errors import ContextOverflow, NothingFits, UsageError, option, speaks_in_flags
from edgellm.sdk.client import EdgeLLM
from edgellm.types.options import LaunchKeywords, LaunchOptions, SelectionKeywords, SelectionOptions
from edgellm.types.sampling import Sampling, SamplingKeywords

LONG = "x" * 1000
both = pytest.mark.parametrize("isolate", [True, False], ids=["process", "thread"])


@pytest.mark.parametrize(
    ("keywords", "struct"),
    [(SamplingKeywords, Sampling), (SelectionKeywords, SelectionOptions), (LaunchKeywords, LaunchOptions)],
)
def test_the_keywords_are_the_fields(keywords: Any, struct: type[msgspec.Struct]) -> None:
    assert {*keywords.__annotations__} == {*struct.__struct_fields__}


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("ctx", None, "ctx"),
        ("ctx", 1_048_576, "ctx=1048576"),
        ("min_tps", 4.5, "min_tps=4.5"),
        ("max_memory", "2GiB", 'max_memory="2GiB"'),
        ("offline", True, "offline=True"),
    ],
)
def test_an_option_is_a_keyword_in_python(name: str, value: Any, written: str) -> None:
    assert option(name, value) == written


@pytest.fixture
def path(tmp_path: Path) -> str:
    shape = {"block_count": 24, "embedding_length": 1024, "attention__head_count": 16, "attention__head_count_kv": 8}
    return str(gguf_writer.model(context_length=32768, **shape).write(tmp_path / "long.gguf"))


def test_a_file_that_does_not_fit_names_the_option_that_helps(path: str) -> None:
    with refuses(NothingFits, varies=r"the machine would .*"):
        EdgeLLM.load(path, ctx=32768, max_memory="330MiB")
    with refuses(NothingFits, varies=r"the machine would .*"):
        command("run", path, "hello", "--ctx", "32768", "--max-memory", "330MiB")


def test_an_option_without_a_meaning_is_named(path: str) -> None:
    with refuses(UsageError, param="quant"):
        EdgeLLM.load(path, quant="Q4_K_M")
    with refuses(UsageError, param="quant"):
        command("run", path, "hello", "--quant", "Q4_K_M")


@both
def test_what_the_model_s_process_refuses_is_worded_for_the_reader_outside(isolate: bool) -> None:
    with EdgeLLM.load("echo", ctx=256, isolate=isolate) as llm, refuses(ContextOverflow, n_prompt=1001, n_ctx=256):
        llm.chat(LONG)
    with refuses(ContextOverflow, n_prompt=1001, n_ctx=256):
        command("run", "echo", LONG, "--ctx", "256", "--isolate" if isolate else "--no-isolate")


def command(*arguments: str) -> None:
    """Runs it in this process, which speaks to Python again afterwards."""
    try:
        cli.main([*arguments], prog_name="edgellm", standalone_mode=False)
    finally:
        assert not speaks_in_flags()


@pytest.mark.parametrize("value", [2.7, True, None, "2.7", "two"])
def test_conversations_are_counted_in_whole_numbers(value: Any) -> None:
    with refuses(UsageError, param="slots"):
        SelectionOptions(slots=value).request()


@pytest.mark.parametrize("value", [1.5, True, None, "1.5"])
def test_layers_are_counted_in_whole_numbers(value: Any) -> None:
    with refuses(UsageError, param="gpu_layers"):
        SelectionOptions(gpu_layers=value).request()


def test_a_cache_type_is_text() -> None:
    with refuses(UsageError):
        SelectionOptions.of(kv=None)


def test_sampling_may_be_a_mapping() -> None:
    assert LaunchOptions.of(sampling={"temperature": 1.0}).sampling == Sampling(temperature=1.0)
    with refuses(UsageError):
        LaunchOptions.of(sampling={"temprature": 1.0})
    with refuses(UsageError):
        LaunchOptions.of(sampling=1.0)


def test_a_number_may_be_text() -> None:
    request = SelectionOptions(slots="2", gpu_layers="0").request()
    assert (request.slots, request.gpu_layers) == (2, 0)
