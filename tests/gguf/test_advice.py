"""Why libllama is slower than it could be, and lines that mend it where they are read."""

from __future__ import annotations

import pytest
from edgellm_gguf import library
from edgellm_gguf.advice import advise
from edgellm_gguf.plugin import GgufBackend
from edgellm_gguf.verdict import Verdict

from edgellm.contract.backend import Adviser
from edgellm.hardware.probe import probe
from edgellm.types.machine import Cpu, Machine, Memory

AVX2 = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | FMA = 1 | AVX512 = 0 | REPACK = 1 | "


def machine(*isa: str) -> Machine:
    return Machine("m", "M", Cpu("x86_64", isa=isa), Memory(2**34))


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLAMA_CPP_LIB_PATH", raising=False)
    monkeypatch.setattr(library, "missing", lambda: "")

    def set_to(found: Verdict) -> None:
        monkeypatch.setattr(library, "verdict", lambda machine: found)

    return set_to


def test_what_the_processor_has_and_the_library_does_not_use(verdict) -> None:
    verdict(Verdict("", AVX2, proof="wheel"))
    (found,) = advise(machine("avx2", "avx512f", "avx512vnni", "sse3"))
    assert found.text == "this libllama does not use avx512f, avx512vnni, which this processor has"
    assert found.fix.startswith("`make setup`")


@pytest.mark.parametrize("system_info", [AVX2, ""])
def test_nothing_is_said_where_nothing_is_missing_or_known(verdict, system_info: str) -> None:
    verdict(Verdict("", system_info, proof="wheel"))
    assert advise(machine("avx2", "sse3") if system_info else machine("avx512f")) == []


def test_set_up_is_no_help_where_the_folder_is_named(verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict(Verdict("the library dies of SIGILL here"))
    assert advise(machine())[0].fix.startswith("`make setup`")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/opt/llama")
    (found,) = advise(machine())
    assert found.text == "the library dies of SIGILL here"
    assert "/opt/llama, or unset LLAMA_CPP_LIB_PATH and `make setup`" in found.fix


def test_no_library_is_what_check_says_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "missing", lambda: "no libllama in /x")
    assert [row.text for row in advise(machine())] == GgufBackend().check(machine()) == ["no libllama in /x"]


def test_the_library_here_was_built_for_this_processor() -> None:
    assert isinstance(GgufBackend(), Adviser)
    assert GgufBackend().advise(probe(measure=False)) == []
