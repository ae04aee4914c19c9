"""The tree drawn in edgellm.errors is the tree that exists, with its codes."""

from __future__ import annotations

import re

import pytest

import edgellm
from edgellm import errors
from edgellm.errors import EdgeLLMError

LINE = re.compile(r"^    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)\s+(?P<exit>\d)\s+(?P<http>\d{3})\s+\S")


def drawn() -> dict[str, tuple[str, int, int]]:
    """Class name -> (name of its parent, exit code, HTTP status), read from the docstring."""
    found: dict[str, tuple[str, int, int]] = {}
    path = ["EdgeLLMError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := LINE.match(line):
            depth = len(match["branch"]) // 4
            del path[depth:]
            found[match["name"]] = (path[-1], int(match["exit"]), int(match["http"]))
            path.append(match["name"])
    return found


def real() -> dict[str, tuple[str, int, int]]:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeLLMError)]
    return {c.__name__: (c.__mro__[1].__name__, c.exit_code, c.http_status) for c in classes if c is not EdgeLLMError}


def test_the_drawn_tree_is_the_real_one() -> None:
    assert len(real()) >= 20
    assert drawn() == real()


def test_codes_are_snake_case_and_lead_back_to_the_class() -> None:
    for name in real():
        error = getattr(errors, name)("what failed")
        assert errors.by_code(error.code) is type(error)
    assert errors.ContextOverflow("").code == "context_overflow"
    assert errors.by_code("a_plugin_s_own_error") is EdgeLLMError


def test_all_errors_can_be_imported_from_the_package() -> None:
    assert {*real(), "EdgeLLMError"} <= {*edgellm.__all__} <= {*dir(edgellm)}
    assert all(getattr(edgellm, name) is getattr(errors, name) for name in real())


def test_the_hint_follows_the_message() -> None:
    assert str(errors.NothingFits("qwen3-4b needs 3.1 GiB", hint="try --max-memory 2GiB")) == (
        "qwen3-4b needs 3.1 GiB; try --max-memory 2GiB"
    )
    assert str(errors.Closed("the session was closed")) == "the session was closed"


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (errors.ContextOverflow("", n_prompt=9, n_ctx=8), {"n_prompt": 9, "n_ctx": 8}),
        (errors.CacheFull("", needed=2, free=1), {"needed": 2, "free": 1}),
        (errors.StepFailed("", lost_slots=(1, 3)), {"lost_slots": (1, 3)}),
        (errors.WorkerCrashed("", reason="killed by SIGILL"), {"reason": "killed by SIGILL"}),
        (errors.TimedOut("", timeout=2.5), {"timeout": 2.5}),
    ],
)
def test_numbers_stay_numbers(error: EdgeLLMError, attributes: dict[str, object]) -> None:
    assert {name: getattr(error, name) for name in attributes} == attributes
