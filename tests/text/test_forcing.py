"""What is long and leaves no choice is drawn token by token; what is short is put in at once."""

from __future__ import annotations

import pytest

from edgellm.builtin.echo import EchoEngine
from edgellm.text.forcing import MOST, reach
from edgellm.text.matcher import GrammarCompiler
from edgellm.types import grammar_tree as tree
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings

ENGINE = EchoEngine(Settings(n_ctx=64))
LONG = "a" * (MOST + 1)


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(ENGINE.tokenizer, ENGINE.info)


@pytest.mark.parametrize(
    ("grammar", "before"),
    [
        (Grammar("choice", f'["{LONG}"]'), b""),
        (Grammar("choice", f'["{LONG}", "{LONG}b"]'), b"a"),
        (Grammar("regex", f"xa{{{MOST + 1}}}b*"), b"x"),
        (Grammar("regex", "x(a{40}){40}"), b"x"),
        (Grammar.of_schema({"const": LONG}), b'"'),
        (Grammar.of_schema({"properties": {LONG: {}}, "required": [LONG]}), b'{"'),
        (Grammar.of_schema({"type": "string", "pattern": "^(a{40}){40}$"}), b'"'),
        (Grammar.of_schema({"type": "string", "pattern": "^a*$", "minLength": MOST + 1}), b'"'),
        (Grammar.of_tree(tree.Text(LONG)), b""),
        (Grammar.of_tree(tree.Pattern((f"a{{{MOST + 1}}}",))), b""),
        (Grammar.of_tree(tree.Sequence((tree.Text("x"), tree.Json({"enum": [LONG]})))), b'x"'),
    ],
)
def test_what_is_long_is_not_forced(compiler: GrammarCompiler, grammar: Grammar, before: bytes) -> None:
    matcher = compiler.matcher(grammar)
    for byte in before:
        matcher.accept(byte)
    for _ in range(3):
        assert ord("a") in matcher.allowed()
        assert matcher.forced() == ()
        matcher.accept(ord("a"))


@pytest.mark.parametrize(
    ("grammar", "forced"),
    [
        (Grammar("choice", '["yes"]'), b"yes"),
        (Grammar("choice", f'["{LONG[1:]}"]'), LONG[1:].encode()),
        (Grammar("regex", "https://[a-z]+"), b"https://"),
        (Grammar.of_schema({"const": "no", "description": LONG}), b'"no"'),
        (Grammar.of_tree(tree.Text("a{900}")), b"a{900}"),
    ],
)
def test_what_is_short_is_forced(compiler: GrammarCompiler, grammar: Grammar, forced: bytes) -> None:
    assert bytes(compiler.matcher(grammar).forced()) == forced


@pytest.mark.parametrize("answer", ["https://a/b\n", "https://a/b\n" + "x" * 600])
def test_a_pattern_means_the_same_however_it_is_written(compiler: GrammarCompiler, answer: str) -> None:
    for least in (0, 600):  # the second is long
        matcher = compiler.matcher(Grammar("regex", rf"https:\/\/a/b[\n]x{{{least},}}"))
        ends = ENGINE.info.eos_ids
        for byte in answer.encode():
            if byte not in matcher.allowed():
                break
            matcher.accept(byte)
        assert bool(ends & set(matcher.allowed())) == (answer.count("x") >= least)


def test_no_number_grows_with_the_pattern() -> None:
    """The product of all that a pattern of 512 KiB counts takes a second to make."""
    for n in (50, 40_000):
        assert MOST < reach("a{999999999}" * n) < 10**13
