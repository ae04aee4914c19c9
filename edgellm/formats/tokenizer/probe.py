"""Whether two tokenizers cut text alike: tried on many scripts, on every token that stands for itself in text, and on
tokens of the vocabulary put together at random, where one's rank decides against another's.

A tokenizer that is nearly right makes a model worse, and nothing shows it. So every conversion of one is checked here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.tokenizer import FileTokenizer

PROBE = (
    "Hello, World! I'll pay $12,345.67 for 3 of the naïve cafés' recipes...\n\n\tdef f(x):\r\n        return x**2\n"
    "Что это? これはペンです。 你好，世界！ 한국어 العربية हिन्दी ไทย \U0001f600\U0001f468\u200d\U0001f469 e\u0301 ½ Ⅷ\n"
    "HTTPServerError \u00a0\u2003 'S 'RE x=1;y=22;z=333;w=4444 <|x|> </s> ___ --- !!! ??\n \n  \n   end   "
)
MAX_ADDED = 500  # tokens of the user's that are tried, each among letters and spaces
_LINES, _LINE_TOKENS = 50, 24  # put together at random


@dataclass(frozen=True, slots=True)
class Difference:
    """Where one tokenizer parts from another."""

    text: str
    ours: list[int]  # four tokens from the first that differs
    theirs: list[int]

    def told(self, form: str) -> str:
        """In words; `form` is how ours is called beside the original."""
        return f"{form} reads {self.text[:40]!r} as {self.ours} where it reads {self.theirs}"


def difference(
    ours: FileTokenizer, theirs: FileTokenizer, added: Sequence[str], *, control: bool = False
) -> Difference | None:
    """The first text that they cut in two ways; None = all alike. `added` are tokens that text may hold as they are.

    With `control`, texts are read as templates are too, where control tokens count.
    """
    for line in _lines(added, theirs):
        for special, parsed in ((False, False), (True, False), *(((False, True),) if control else ())):
            a = ours.encode(line, add_special=special, parse_special=parsed)
            b = theirs.encode(line, add_special=special, parse_special=parsed)
            if a != b:
                at = next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), -1)
                return Difference(line, a[at : at + 4], b[at : at + 4])
    return None


def _lines(added: Sequence[str], tokenizer: FileTokenizer) -> Iterator[str]:
    yield PROBE
    yield from PROBE.splitlines(keepends=True)
    normal = [token for token, kind in enumerate(tokenizer.vocabulary.kinds) if kind == TokenKind.NORMAL]
    choose = random.Random(0)
    for _ in range(_LINES if normal else 0):
        pieces = b"".join(map(tokenizer.token_bytes, choose.choices(normal, k=_LINE_TOKENS)))
        yield pieces.decode("utf-8", "ignore")
    for text in added[:MAX_ADDED]:
        yield f"a {text} b{text}c"
