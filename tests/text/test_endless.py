"""Whether a grammar can end: cases by hand, and random grammars against trying it out."""

from __future__ import annotations

import random

import pytest

from edgellm.text.endless import can_end

ENDLESS = [
    'start: "a" start',
    'start: "x" a\na: "b" a | /c/ a',
    'start: "a" (start | start "b")',
    "start: a+\na: b\nb: a",
    'start: "a" b{2}\nb: b "c"',
    "start: b~1..3\nb: b C\nC: /c/",
    '// start: "a"\nstart[temperature=0.5]: "#" start',
    '?start: ("a" | "b")* x\n  | x\nx: x x',
    'start: "a\\"" start "// no" // | "b"',
]
ENDING = [
    'start: "a" start | "b"',
    'start: "a" start?',
    'start: "a" start*',
    'start: "a" [start]',
    'start: "a" start{0,2}',
    "start: start~0..2",
    'start: "a" |',
    'start: "x" | y\ny: "c" y',
    "start: A B\nA: /start: x/\n%ignore / /",
    "start: unknown <|end|> <[3]>",
    'start: "a".."z" -> letter',
    "",
    'start: "a" start @ what is this',
    'start: "a" start )',
]


@pytest.mark.parametrize("lark", ENDLESS)
def test_what_never_ends(lark: str) -> None:
    assert not can_end(lark)


@pytest.mark.parametrize("lark", ENDING)
def test_what_ends_or_is_not_understood(lark: str) -> None:
    assert can_end(lark)


def test_brackets_that_are_never_closed_are_not_read_to_the_end() -> None:
    assert can_end("start: " + "a[)" * 100_000)  # takes minutes where each name reads the line


def test_repetitions_that_are_never_closed_are_not_read_to_the_end() -> None:
    assert can_end('start: "a"' + "{ 1" * 100_000)
    assert can_end('start: "a"{' + " " * 64_000)
    assert can_end('start: "a"{' + "1" * 64_000)


Part = tuple[str, "str | list[list[Part]]"]  # how often it stands, and a text in quotes, a rule, or a group


def random_rules(draws: random.Random) -> dict[str, list[list[Part]]]:
    names = ["start", *(f"r{number}" for number in range(draws.randrange(1, 6)))]

    def alternatives(depth: int) -> list[list[Part]]:
        return [[part(depth) for _ in range(draws.randrange(1, 4))] for _ in range(draws.randrange(1, 3))]

    def part(depth: int) -> Part:
        often = draws.choice(["", "", "", "", "+", "?", "*", "{1,2}"])
        if depth and draws.random() < 0.2:
            return often, alternatives(depth - 1)
        return often, draws.choice([*names, *names, '"t"'])

    return {name: alternatives(2) for name in names}


def text_of(alternatives: list[list[Part]]) -> str:
    def part(often: str, what: str | list[list[Part]]) -> str:
        return (what if isinstance(what, str) else f"({text_of(what)})") + often

    return " | ".join(" ".join(part(*one) for one in parts) for parts in alternatives)


def ends(alternatives: list[list[Part]], ending: set[str]) -> bool:
    def part(often: str, what: str | list[list[Part]]) -> bool:
        if often in ("?", "*"):
            return True
        return what == '"t"' or what in ending if isinstance(what, str) else ends(what, ending)

    return any(all(part(*one) for one in parts) for parts in alternatives)


def test_random_grammars_are_judged_as_by_trying_until_nothing_changes() -> None:
    draws, verdicts = random.Random(3), []
    for _ in range(2000):
        rules, ending = random_rules(draws), set[str]()
        for _ in rules:
            ending |= {name for name, alternatives in rules.items() if ends(alternatives, ending)}
        lark = "\n".join(f"{name}: {text_of(alternatives)}" for name, alternatives in rules.items())
        assert can_end(lark) == ("start" in ending), lark
        verdicts.append("start" in ending)
    assert 200 < sum(verdicts) < 1800


def test_it_takes_linear_time() -> None:
    """A chain in the worst order: with passes over all rules it would take as many as there are rules."""
    n = 4000
    chain = "start: r0 " + "".join(f"\nr{number}: r{number + 1} | r{number + 1} r{number}" for number in range(n))
    assert can_end(f'{chain}\nr{n}: "a"')
    assert not can_end(f"{chain}\nr{n}: r0")
