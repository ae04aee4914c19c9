"""Whether a grammar in Lark has a finite answer: `start: "a" start` can begin, and never end.

The library does not say, and the answer would be as long as its limit. A rule can end where one of its alternatives
has only parts that can; here each alternative waits for the parts that it names, so that the whole takes linear time.
"""

from __future__ import annotations

import re
from collections import defaultdict

# What stands in brackets is bounded, and no part gives back what the next one could take: what follows an open bracket
# may be all that there is.
_TOKEN = re.compile(
    r"""
    (?P<passed> \s+ | //[^\n]* | \#[^\n]* | %[^\n]* | ->\s*\w+ | \+ | \.\.)
    | (?P<text> "(?:\\.|[^"\\\n])*"i? | /(?:\\.|[^/\\\n])+/[a-z]* | <[^>\s]*>)
    | (?P<head> [?!]?(?P<rule>[\w-]+)(?:\[[^\]\n]{0,128}+\])?(?:\.\d+)?[ \t]*:)
    | (?P<name> [\w-]+)
    | (?P<often> [*?] | \{\s*+(?P<least>\d*+)[^}]{0,64}+\} | ~\s*+(?P<least_of>\d++)(?:\.\.\d++)?)
    | (?P<open> [(\[]) | (?P<close> [)\]]) | (?P<or> \|)
    """,
    re.VERBOSE,
)
_ENDS = ""  # the name of what can end


def can_end(lark: str, root: str = "start") -> bool:
    """False only where that is certain: what this does not read is left to the library."""
    alternatives = _alternatives(lark)
    waiting: dict[str, list[int]] = defaultdict(list)
    rules = {rule for rule, _ in alternatives}
    missing = []
    for number, (_, parts) in enumerate(alternatives):
        named = set(parts) & rules  # what is defined elsewhere can end
        missing.append(len(named))
        for name in named:
            waiting[name].append(number)
    ending: set[str] = set()
    ready = [number for number, n in enumerate(missing) if n == 0]
    while ready:
        rule, _ = alternatives[ready.pop()]
        if rule not in ending:
            ending.add(rule)
            for number in waiting[rule]:
                missing[number] -= 1
                if missing[number] == 0:
                    ready.append(number)
    return root in ending or root not in rules


def _alternatives(lark: str) -> list[tuple[str, list[str]]]:
    """Each alternative of each rule, with the names of its parts; a group is a rule of its own. Empty = not read."""
    read: list[tuple[str, list[str]]] = []
    outer: list[tuple[str, list[str]]] = []
    rule, parts = _ENDS, []  # before the first one: nothing, which ends
    at = n_groups = 0
    while at < len(lark):
        token = _TOKEN.match(lark, at)
        if token is None:
            return []
        at = token.end()
        match token.lastgroup:
            case "text" | "name":
                parts.append(_ENDS if token["text"] else token["name"])
            case "head":
                read.append((rule, parts))
                rule, parts = token["rule"], []
            case "or":
                read.append((rule, parts))
                parts = []
            case "open":
                n_groups += 1
                outer.append((rule, parts))
                rule, parts = f"({n_groups}", []
                read += [(rule, [])] if token["open"] == "[" else []
            case "close" if outer:
                read.append((rule, parts))
                group, (rule, parts) = rule, outer.pop()
                parts.append(group)
            case "often" if parts:
                least = token["least"] or token["least_of"] or "0"
                parts[-1] = parts[-1] if int(least[:9]) else _ENDS
            case "passed":
                pass
            case _:
                return []
    return [*read, (rule, parts)]
