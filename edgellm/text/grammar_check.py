"""What a client wrote is read, and tried whether it can be compiled, within bounds: in a process of its own.

The library writes `allOf` and references out and makes automata of patterns, without a bound: 300 characters of a
schema take all memory there is. Inside a worker nothing could end that, and Python's lock would be kept from answers.
"""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from edgellm.contract.child import ask
from edgellm.contract.parent import connect
from edgellm.errors import UsageError
from edgellm.text import grammar_source
from edgellm.types.grammar import Grammar
from edgellm.types.grammar_tree import Json, Node, Pattern, nodes

# An ambiguous grammar takes 0.5 s a token under the library's own limits, and 4 ms under these. No schema in use
# comes near them.
MAX_ITEMS_IN_ROW = 500
MAX_STEP_ITEMS = 5_000
STEP_LEXER_FUEL = 50_000
INITIAL_LEXER_FUEL = 200_000
MAX_COMPILED_SIZE = 50_000
# Of what has been met of the texts in a grammar, by all its answers: a pattern that counts adds a hundred a token, each
# up to a kilobyte. A list of choices has at most one for each of its 65,536 bytes.
MAX_LEXER_STATES = 100_000
SECONDS = 2  # of processor time, beside the start of the process
# Characters: it compiles in milliseconds, whatever it is (27 at most of 3,000 random ones that count to 9,999). What
# each token of its answer takes then is bounded by the limits above, tried apart or not.
SHORT_PATTERN = 64
MEMORY_BYTES = 1024**3  # of addresses; Python and the library take 0.2 GiB
PATIENCE_S = 60.0  # on a machine that other programs keep busy
# What is not in a schema without these is compiled in a time that grows with its length.
_RISKS = re.compile(
    r'"(\$ref|\$dynamicRef|allOf|anyOf|oneOf|not|if|pattern|patternProperties|propertyNames|format|contains'
    r'|dependentSchemas|unevaluatedProperties|unevaluatedItems)"|[0-9]{4}'
)


def parts_to_check(grammar: Grammar) -> list[Grammar]:
    """What of it may take long to compile; of a tree, its schemas and patterns."""
    if grammar.kind != "tree":
        return [] if grammar.kind == "choice" or not _is_risky(grammar) else [grammar]
    parts = dict.fromkeys(part for node in nodes(grammar.tree) for part in _parts_of(node))
    return [part for part in parts if _is_risky(part)]


def parts_of_tools(grammar: Grammar) -> list[tuple[str, Grammar]]:
    """The schemas and patterns in a tree that are of a tool's arguments, each with its name, in the tools' order."""
    told = [node for node in nodes(grammar.tree) if isinstance(node, Json | Pattern) and node.tool]
    return list(dict.fromkeys((node.tool, part) for node in reversed(told) for part in _parts_of(node)))


def _parts_of(node: Node) -> list[Grammar]:
    if isinstance(node, Json):
        return [Grammar("json_schema", msgspec.json.encode(node.schema).decode(), checked=True)]
    if isinstance(node, Pattern):
        return [Grammar("regex", pattern, checked=True) for pattern in node.patterns]
    return []


def _is_risky(grammar: Grammar) -> bool:
    if grammar.kind == "regex":
        return len(grammar.text) > SHORT_PATTERN
    return grammar.kind != "json_schema" or _RISKS.search(grammar.text) is not None


def compiled(library: Any, tables: Any, source: str) -> Any:
    """The library's matcher of `source`, under its own limits; it has an error where it cannot be made."""
    limits = library.LLParserLimits(
        max_items_in_row=MAX_ITEMS_IN_ROW,
        step_max_items=MAX_STEP_ITEMS,
        step_lexer_fuel=STEP_LEXER_FUEL,
        initial_lexer_fuel=INITIAL_LEXER_FUEL,
        max_grammar_size=MAX_COMPILED_SIZE,
        max_lexer_states=MAX_LEXER_STATES,
        verbose_errors=False,
    )
    return library.LLMatcher(tables, source, log_level=0, limits=limits)


class _Question(msgspec.Struct):
    grammar: Grammar
    specials: Mapping[str, int]


class _Answer(msgspec.Struct):
    """What the library compiles, or what is wrong with the grammar; with a hint it is refused for that."""

    source: str = ""
    error: str = ""
    hint: str = ""


def source(grammar: Grammar, specials: Mapping[str, int]) -> str:
    """As `grammar_source.source`, of a grammar with `parts_to_check`. What is wrong with those otherwise is not told
    here.

    Raises:
        UsageError: it takes more than SECONDS or MEMORY_BYTES; no answer under it ends.
        ValueError: it has an error.
    """
    question = _Question(grammar, specials if grammar.kind == "tree" else {})
    told, _ = ask("edgellm.text.grammar_check", question=msgspec.json.encode(question), timeout_s=PATIENCE_S)
    if not told:
        hint = "write it with fewer alternatives, references and repetitions"
        raise grammar.refused(f"takes more than {SECONDS} s or {MEMORY_BYTES >> 30} GiB to compile", hint)
    answer = msgspec.json.decode(told, type=_Answer)
    if answer.hint:
        raise UsageError(answer.error, hint=answer.hint, param=grammar.param or "grammar")
    if answer.error:
        raise ValueError(answer.error)
    return answer.source


class _Bytes:
    """A vocabulary of single bytes."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    special_token_ids = (256,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    question, tell = connect()
    import llguidance

    tokenizer = llguidance.LLTokenizer(_Bytes(), n_vocab=257, eos_token=[256])  # type: ignore[arg-type]
    asked = msgspec.json.decode(question, type=_Question)
    _limit()
    try:
        tell(_Answer(_tried(llguidance, tokenizer, asked)))
    except UsageError as error:
        tell(_Answer(error=error.message, hint=error.hint))
    except (ValueError, RecursionError) as error:
        tell(_Answer(error=str(error)))


def _tried(library: Any, tokenizer: Any, asked: _Question) -> str:
    """What the library compiles, once all that is a client's in it was compiled. Raises as `grammar_source.source`."""
    bits = (ctypes.c_uint32 * 9)()
    made = grammar_source.source(library, asked.grammar, asked.specials)
    for part in parts_to_check(asked.grammar):
        matcher = compiled(library, tokenizer, grammar_source.source(library, part, {}))
        if not matcher.is_error():  # the first mask takes as long as compiling
            matcher.unsafe_compute_mask_ptr(ctypes.addressof(bits), ctypes.sizeof(bits))
    return made


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not a Unix; the patience of `check` holds
        return
    seconds = math.ceil(time.process_time()) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    main()
