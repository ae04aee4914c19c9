"""Keeps an answer to a grammar: which tokens may come next, and which must.

`llguidance` does the work (docs/adr/040). It is a compiled library without wheels for some machines, so it is
imported when the first grammar arrives, and asked for by name where it is absent.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import BackendUnavailable, GrammarFailed, UsageError
from edgellm.text import grammar_check, grammar_library, grammar_source
from edgellm.text.schema_values import in_tool
from edgellm.types.grammar import Grammar, GrammarKind

if TYPE_CHECKING:
    from edgellm.contract.engine import EngineInfo, Tokenizer

# Compiled grammars that are kept for requests to come. One of 50 tools has about a megabyte, and what the library has
# met of the answers under one may have 20 to 40 more.
KEPT = 8
_HINTS: dict[GrammarKind, str] = {
    "json_schema": "write it in another way: answers cannot be kept to all of JSON Schema (draft 2020-12)",
    "regex": "mend it; patterns are those of Rust's regex: no look-around, no references back",
    "lark": "mend it; rules as `start: a`, texts in double quotes, patterns between slashes",
    "gbnf": "mend it; rules as `root ::= a`, as llama.cpp reads them",
    "choice": "send other texts",
    "tree": "mend the schema or pattern in it",
}

_SHOWN_LINE = re.compile(r"\d+ \| ?|\| |<")  # of a grammar, in an error
_PLACE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: ")  # in what the library made of it
NO_ANSWER = "NoExtension"  # what the library's error begins with where nothing may come
FEW_WORDS = 64  # of 32 tokens each

Bits = npt.NDArray[np.uint32]


class Matcher:
    """The state of one answer."""

    def __init__(self, compiled: Any, n_vocab: int, first: Bits, spoilt: threading.Event | None = None) -> None:
        self._compiled = compiled
        self._spoilt = spoilt or threading.Event()  # copies share what the library has met, and its errors in that
        self._n_vocab = n_vocab
        self._bits: Bits | None = first  # of what may come next; None = not computed yet
        self._computing = threading.Lock()  # held from `begin` to `compute`, which is another thread's

    def begin(self) -> bool:
        """Whether the next mask is to be computed: then somebody calls `compute`, and others wait for it."""
        if self._bits is not None or self._compiled.is_stopped():
            return False
        self._computing.acquire()
        return True

    def compute(self) -> None:
        try:
            self._bits = _mask(self._compiled, self._n_vocab)
        finally:
            self._computing.release()

    def copy(self) -> Matcher:
        return Matcher(self._compiled.deep_copy(), self._n_vocab, self._next(), self._spoilt)

    @property
    def spoilt(self) -> bool:
        """Whether it or a copy of it has failed, so that others may."""
        return self._spoilt.is_set()

    def allows(self, tokens: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which of these may come next.

        Raises:
            GrammarFailed: the grammar became too ambiguous to go on.
        """
        allowed: npt.NDArray[np.bool_] = (self._next()[tokens >> 5] >> (tokens & 31).astype(np.uint32) & 1).astype(bool)
        return allowed

    def few(self) -> npt.NDArray[np.intp] | None:
        """`allowed`, where that is quick: between the parts of JSON only a few tokens may come. None elsewhere."""
        words = self._next().nonzero()[0]
        return self._in_words(words) if len(words) <= FEW_WORDS else None

    def allowed(self) -> npt.NDArray[np.intp]:
        """Every token that may come next, in order. Raises as `allows` does."""
        return self._in_words(self._next().nonzero()[0])

    def _in_words(self, words: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        bits = np.unpackbits(self._next()[words].view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
        at, bit = bits.nonzero()
        tokens: npt.NDArray[np.intp] = words[at] * 32 + bit
        return tokens

    def accept(self, token: int) -> None:
        """`token` was chosen: one that may come next.

        Raises:
            GrammarFailed: it may not.
        """
        with self._computing:
            self._bits = None
        if not self._compiled.consume_token(token):
            raise self._failed()

    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, spelled as the model would; () where there is a choice."""
        return tuple(self._compiled.compute_ff_tokens())

    @property
    def complete(self) -> bool:
        """Whether nothing can follow but the end of the answer."""
        return bool(self._compiled.is_stopped() and not self._compiled.is_error())

    def _next(self) -> Bits:
        with self._computing:
            bits = self._bits
        if bits is None:
            bits = self._bits = _mask(self._compiled, self._n_vocab)
        if self._compiled.is_error():
            raise self._failed()
        return bits

    def _failed(self) -> GrammarFailed:
        self._spoilt.set()
        problem = f"the grammar cannot go on: {_short(self._compiled.get_error())}"
        return GrammarFailed(problem, hint="write it with less ambiguity")


class GrammarCompiler:
    """Makes matchers for one model's vocabulary. Slow the first time: call it apart from the loop that answers."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, *, trusts: bool = False) -> None:
        """`trusts`: nothing is tried apart, because no client wrote it."""
        self._tokenizer = tokenizer
        self._info = info
        self._trusts = trusts
        self._tables: Any = None
        self._specials: dict[str, int] = {}
        self._matchers: OrderedDict[tuple[str, str], Matcher] = OrderedDict()
        self._keeping = threading.Lock()  # held for a moment at a time
        self._making = threading.Lock()  # held for seconds

    def prepare(self) -> None:
        """Make what every grammar needs: 0.3 to 2.5 s, in which no other thread of Python runs.

        Raises:
            BackendUnavailable: the library is not installed.
        """
        library = _library()
        with self._making:
            self._make_tables(library)

    def matcher(self, grammar: Grammar) -> Matcher:
        """The beginning of an answer under `grammar`.

        Raises:
            UsageError: it has an error, is not supported or too large, or no answer can satisfy it.
            BackendUnavailable: the library is not installed.
        """
        with self._making:
            if (kept := self.kept(grammar)) is not None:
                return kept
            matcher = self._compile(grammar)
            with self._keeping:
                self._matchers[_key(grammar)] = matcher
                if len(self._matchers) > KEPT:
                    self._matchers.popitem(last=False)
                return matcher.copy()

    def kept(self, grammar: Grammar) -> Matcher | None:
        """The same at once, also while another grammar is compiled; None where it is to be compiled first."""
        with self._keeping:
            for failed in [other for other, matcher in self._matchers.items() if matcher.spoilt]:
                del self._matchers[failed]  # what the library keeps of one takes some 50 MB
            if (matcher := self._matchers.get(_key(grammar))) is None:
                return None
            self._matchers.move_to_end(_key(grammar))
            return matcher.copy()

    def _make_tables(self, library: Any) -> None:
        if self._tables is None:
            vocabulary = _Vocabulary(self._tokenizer, self._info)
            self._specials = vocabulary.specials
            self._tables = library.LLTokenizer(
                vocabulary, n_vocab=self._info.vocab_size, eos_token=sorted(self._info.eos_ids)
            )

    def _compile(self, grammar: Grammar) -> Matcher:
        library = _library()
        self._make_tables(library)
        try:
            if self._trusts or not grammar_check.parts_to_check(grammar):
                source = grammar_source.source(library, grammar, self._specials)
            else:
                source = grammar_check.source(grammar, self._specials)
        except (ValueError, RecursionError) as error:
            raise grammar.refused(f"has an error: {_short(error)}", "correct it") from None
        compiled = grammar_check.compiled(library, self._tables, source)
        if compiled.is_error():
            problem = _short(compiled.get_error())
            if grammar.kind in ("json_schema", "regex"):
                problem = _PLACE.sub("", problem)
            raise self._in_part(library, grammar) or grammar.refused(f"cannot be used: {problem}", _HINTS[grammar.kind])
        # What no answer can satisfy shows at the first token, which is looked at here and not in mid-answer.
        first = _mask(compiled, self._info.vocab_size)
        if compiled.is_error():
            if not (problem := compiled.get_error()).startswith(NO_ANSWER):
                raise grammar.refused(f"is too ambiguous to begin: {_short(problem)}", "write it with fewer ways")
            raise grammar.refused("has no answer that satisfies it", "allow at least one")
        return Matcher(compiled, self._info.vocab_size, first)

    def _in_part(self, library: Any, grammar: Grammar) -> UsageError | None:
        """What is wrong with the first tool whose schema or pattern cannot be used alone; None = there is none.

        All of them together take no longer than the whole did, and what may take long was tried apart.
        """
        if grammar.kind != "tree":
            return None
        for tool, part in grammar_check.parts_of_tools(grammar):
            try:
                made = grammar_check.compiled(library, self._tables, grammar_source.source(library, part, {}))
                problem = _short(made.get_error()) if made.is_error() else ""
            except (ValueError, RecursionError) as error:
                problem = _short(error)
            if problem:
                refused = part.refused(f"of its arguments has an error: {_PLACE.sub('', problem)}", _HINTS[part.kind])
                return in_tool(tool, refused)
        return None


def _key(grammar: Grammar) -> tuple[str, str]:
    return grammar.kind, grammar.text  # whichever field asked for it


class _Vocabulary:
    """A vocabulary in the form that the library asks for."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo) -> None:
        pieces, special = tokenizer.pieces()
        # An output table may have more rows than there are tokens, and the library takes no empty token.
        padding = range(len(pieces), info.vocab_size)
        self.tokens = [piece or b"<%d>" % token for token, piece in enumerate(pieces)]
        self.tokens += [b"<%d>" % token for token in padding]
        unnamed = {token for token, piece in enumerate(pieces) if not piece}
        self.specials = {pieces[token].decode(errors="replace"): token for token in special if pieces[token]}
        self.special_token_ids = sorted({*special, *padding, *unnamed})
        self.eos_token_id = min(info.eos_ids)
        self._tokenizer = tokenizer
        # Vocabularies as Llama 2's put a space before a text. What goes on in an answer has none, so it is read behind
        # a character that no token joins with others, whose own tokens are left out.
        letter = self._encode("a")
        self._before = "" if b"".join(map(tokenizer.token_bytes, letter)) == b"a" else "\x02"
        self._n_before = len(self._encode(self._before)) if self._before else 0

    def __call__(self, text: str | bytes) -> list[int]:
        plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._encode(self._before + plain)[self._n_before :]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)


def _mask(compiled: Any, n_vocab: int) -> Bits:
    """A bit for each token: token i is bit i % 32 of word i // 32. Empty where the matcher has an error."""
    bits = np.zeros(-(-n_vocab // 32), dtype=np.uint32)
    compiled.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
    return bits


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        if (library := grammar_library.look()).is_system_too_old:
            raise BackendUnavailable(
                f"answers under a grammar need glibc {grammar_library.dotted(library.needed)} or newer, "
                f"and this is {grammar_library.dotted(library.glibc)}",
                hint="ask without one, or install a newer release of the system",
            ) from None
        raise BackendUnavailable(
            "answers under a grammar need the package llguidance, which is not installed",
            hint="pip install 'llguidance>=1.9,<2'; it has no wheels for musl and 32-bit Arm",
        ) from None
    return llguidance


def _short(error: object) -> str:
    """All of it in one line, without those that show the grammar and point at a place in it."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    told = [line for line in lines if line.strip("^ |") and not _SHOWN_LINE.match(line)]
    # The last one says what is wrong, however long the pattern before it.
    return " ".join(line[: 400 // len(told)] for line in told)
