"""How large the source of a chat template may be: compiling it takes time and memory that no budget counts.

At the limits a template compiles in under a second and 100 MB. Of 70 in use, the longest has 2,500 tokens, and
one has 84 branches over 56 names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2 import nodes
from jinja2.lexer import Token

from edgellm.text.budget import OverBudget

MAX_SOURCE = 128 * 1024  # characters
MAX_TOKENS = 20_000  # text between tags is one
MAX_BRANCH_NAMES = 250_000  # for each branch Jinja copies what it knows of all names


def counted(tokens: Iterable[Token]) -> Iterator[Token]:
    """
    Raises:
        OverBudget: there are too many.
    """
    for n_before, token in enumerate(tokens):
        if n_before == MAX_TOKENS:
            raise OverBudget(f"its source has more than {MAX_TOKENS} tokens")
        yield token


def check_branches(tree: nodes.Template) -> None:
    """
    Raises:
        OverBudget: too many branches for so many names.
    """
    n_branches = sum(1 for _ in tree.find_all((nodes.If, nodes.CondExpr)))
    n_names = len({node.name for node in tree.find_all(nodes.Name)})
    if n_branches * n_names > MAX_BRANCH_NAMES:
        raise OverBudget(f"its source has {n_branches} branches over {n_names} names")
