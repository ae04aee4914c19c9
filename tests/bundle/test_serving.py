"""What a bundle hands to pip and to `edgellm serve` on machines of others is names and the flags of a plan."""

from __future__ import annotations

import pytest

from edgellm.bundle import serving
from edgellm.bundle.manifest import check_requirement
from edgellm.cli.serve import command

MODEL = "toy:F32"


@pytest.mark.parametrize(
    "text",
    [
        "--log=/tmp/x", "--target=/", "-rx", "-e.", "--index-url=http://h", "", "a @ http://h/a.whl", "http://h/a.whl",
        "./a", "a/b", "wheels/a-1-py3-none-any.whl", "a.zip", "a==1.zip", ".", "a\n--log=x", "a\n", "a b", "a[b", "a;x",
        "@x", "a[]", "\u00e4",
    ],
)  # fmt: skip
def test_pip_is_asked_for_names_only(text: str) -> None:
    assert check_requirement(text)


@pytest.mark.parametrize("text", ["edgellm[bundle]", "a", "A-b_c", "a[b,c-d]"])
def test_a_name_may_have_extras(text: str) -> None:
    assert not check_requirement(text)


@pytest.mark.parametrize(
    "text",
    [
        "--host 0.0.0.0", "--host=0.0.0.0", "--port 80", "--ollama-port 1", "--api-key x", "--allow-manage",
        "--any-model", "--alias gpt-4o", "--models-dir /", "--models-file x", "--option a=b", "--log-level debug",
        "--no-isolate", "--threads 1", "--ctx", "--ctx --allow-manage", "--ctx 1\n", "--adapter /etc/passwd",
        "--adapter x=/etc/passwd", "--adapter -x", "--backend --host", "--ho 0.0.0.0", "--", "other:F32", "$(x)",
        "--backend=gguf", "--kv $(x)", "--gpu-layers -2",
    ],
)  # fmt: skip
def test_what_no_plan_has_is_not_served(text: str) -> None:
    assert serving.problem(MODEL, [MODEL, "--offline", *text.split(" ")])
    assert serving.problem(MODEL, [MODEL, *text.split(" "), "--offline"])


@pytest.mark.parametrize("given", [[], ["other:F32", "--offline"], [MODEL], ["--offline", MODEL]])
def test_it_is_its_own_model_and_no_network(given: list[str]) -> None:
    assert serving.problem(MODEL, given)
    assert serving.problem("--api-key=x:F32", ["--api-key=x:F32", "--offline"])


def test_the_flags_of_a_plan_are_served() -> None:
    text = "--backend gguf --ctx 8192 --slots 4 --kv q8_0 --gpu-layers -1 --think --adapter a.b --adapter c --offline"
    assert not serving.problem(MODEL, [MODEL, *text.split()])


def test_each_is_a_flag_of_serve_with_a_value_where_it_has_one() -> None:
    params = {name: param for param in command.params for name in param.opts}
    assert {flag: not getattr(params[flag], "is_flag", False) for flag in serving.FLAGS} == {
        flag: value is not None for flag, value in serving.FLAGS.items()
    }
