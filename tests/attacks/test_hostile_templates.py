"""Every hostile template ends in BadTemplate within seconds; the bombs prove their memory in a small process."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.errors import BadTemplate
from edgellm.text import filters, sandbox
from edgellm.text.chat import ChatTemplate
from edgellm.types.message import Message

_CORPUS = Path(__file__).parent / "templates" / "hostile.py"
_SPEC = importlib.util.spec_from_file_location("hostile_templates", _CORPUS)
hostile = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hostile)

MESSAGES = [Message("system", "Be brief."), Message("user", "Hello")]
# Of processor time, for a whole group: what has no budget of its own runs for ever, and the kernel ends it.
PROCESSOR_S = 120
CALL_S = 10  # of processor time for one call, of which a second is the budget
# What the interpreter and Jinja take, and the 128 MiB of text that one render may make, with its copies.
MEMORY_BYTES = 384 * 1024**2

_RUN_ALL = f"""
import importlib.util, json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
resource.setrlimit(resource.RLIMIT_CPU, ({PROCESSOR_S}, resource.RLIM_INFINITY))
spec = importlib.util.spec_from_file_location("hostile", sys.argv[1])
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)
from edgellm.errors import BadTemplate
from edgellm.text.chat import ChatTemplate
for name, source in getattr(hostile, sys.argv[2]).items():
    if sys.argv[2] == "CALLS":
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + {CALL_S}, resource.RLIM_INFINITY))
    try:
        text = ChatTemplate(source).render([{{"role": "user", "content": "Hello"}}])
        ending = f"rendered {{len(text)}} characters"
    except BadTemplate as error:
        ending = "BadTemplate"
        if "MemoryError" in str(error):
            ending = "MemoryError"
    except BaseException as error:
        ending = type(error).__name__
    print(json.dumps([name, ending]), flush=True)
"""


@pytest.mark.parametrize("name", hostile.ESCAPES)
def test_escape_is_refused(name):
    with pytest.raises(BadTemplate) as caught:
        ChatTemplate(hostile.ESCAPES[name]).render(MESSAGES)

    assert caught.value.hint
    assert "uid=" not in str(caught.value)


@pytest.mark.parametrize("name", hostile.HARMLESS)
def test_internals_that_are_only_printed_print_as_nothing(name):
    assert ChatTemplate(hostile.HARMLESS[name]).render(MESSAGES) == ""


@pytest.mark.parametrize("name", hostile.SOURCES)
def test_source_that_defeats_the_compiler_is_refused(name):
    with pytest.raises(BadTemplate):
        ChatTemplate(hostile.SOURCES[name]).render(MESSAGES)


def run_group(group: str) -> dict[str, str]:
    """How each template of it ended, in a process of their own."""
    ran = subprocess.run(
        [sys.executable, "-c", _RUN_ALL, str(_CORPUS), group], capture_output=True, text=True, timeout=280, check=False
    )
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    missing = [name for name in getattr(hostile, group) if name not in dict(rows)]

    assert not missing, f"{missing[0]} ended the process ({ran.returncode}): {ran.stderr[-2000:]}"
    return dict(rows)


@pytest.mark.parametrize(
    "group", [pytest.param("LOOPS", marks=pytest.mark.slow(10)), pytest.param("BOMBS", marks=pytest.mark.slow(4))]
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_AS")
def test_group_ends_soon_in_little_memory(group):
    endings = run_group(group)

    assert {name: ending for name, ending in endings.items() if ending != "BadTemplate"} == {}


@pytest.mark.parametrize("source", [hostile.LOOPS["nested-ranges"], hostile.BOMBS["text-times"]], ids=["loop", "bomb"])
def test_what_would_never_end_or_fill_the_memory_is_stopped(source):
    with pytest.raises(BadTemplate):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize(
    "name", [name if name == "in" else pytest.param(name, marks=pytest.mark.slow(2)) for name in hostile.STRAIGHT]
)
def test_what_compares_long_texts_is_stopped_without_a_loop(name):
    with pytest.raises(BadTemplate):
        ChatTemplate(hostile.STRAIGHT[name]).render(MESSAGES)


def test_keys_of_one_hash_are_refused():
    with pytest.raises(BadTemplate):
        ChatTemplate(hostile.COLLIDING).render(MESSAGES)


@pytest.mark.parametrize("key", ["2305843009213693951", "(1, 2305843009213693951)", "1e300"])
def test_a_key_whose_hash_others_can_have_is_refused(key):
    with pytest.raises(BadTemplate):
        ChatTemplate("{% set d = dict([(" + key + ", 0)]) %}").render(MESSAGES)
    assert ChatTemplate("{{ dict([('a', 1), (2, 3)], b=4) }}").render(MESSAGES) == "{'a': 1, 2: 3, 'b': 4}"


@pytest.mark.parametrize("name", hostile.PARTS)
def test_parts_of_a_text_are_charged(name):
    with pytest.raises(BadTemplate):
        ChatTemplate(hostile.PARTS[name]).render(MESSAGES)


@pytest.mark.slow(20)
@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_AS")
def test_each_call_on_the_longest_text_ends_soon():
    endings = run_group("CALLS")

    assert {name: end for name, end in endings.items() if end != "BadTemplate" and "rendered" not in end} == {}


@pytest.mark.parametrize(
    ("available", "called"),
    [
        pytest.param(sandbox.TEXT_METHODS, hostile.METHODS, id="methods"),
        pytest.param(filters.allowed(), hostile.FILTERS, id="filters"),
    ],
)
def test_each_that_is_available_is_called(available, called):
    assert set(available) <= {name.partition("(")[0].partition(" ")[0] for name in called}
