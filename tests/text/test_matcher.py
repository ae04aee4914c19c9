"""Answers under a grammar: what is drawn is what a mask over the whole vocabulary would allow."""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import numpy as np
import pytest
from support.refusals import refuses
from support.schemas import random_schema
from support.waiting import PATIENCE_S

from edgellm.builtin.echo import ByteTokenizer, EchoEngine
from edgellm.errors import BackendUnavailable, GrammarFailed, UsageError
from edgellm.text import grammar_library
from edgellm.text.grammar_check import parts_to_check
from edgellm.text.grammar_library import GrammarLibrary
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.text.sampling import Sampler
from edgellm.types import grammar_tree as tree
from edgellm.types.grammar import MAX_CHOICES, MAX_OPTIONAL, MAX_PROPERTIES, Grammar, GrammarKind
from edgellm.types.plan import Settings
from edgellm.types.sampling import Sampling

ENGINE = EchoEngine(Settings(n_ctx=64))
VOCAB, (END,) = ENGINE.info.vocab_size, ENGINE.info.eos_ids
# Definitions that follow one another: 1,150 of them overflow the native stack.
CHAIN = {"$defs": {f"d{at}": {"items": {"$ref": f"#/$defs/d{at + 1}"}} for at in range(101)}, "$ref": "#/$defs/d0"}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(ENGINE.tokenizer, ENGINE.info)


def drawn(matcher: Matcher, sampler: Sampler, rng: np.random.Generator, *, most: int = 4000) -> bytes | None:
    """An answer over random logits; None where it did not end."""
    answer: list[int] = []
    while len(answer) < most:
        token = sampler.sample(rng.normal(scale=2.0, size=VOCAB).astype(np.float32), matcher)
        if token == END:
            return bytes(answer)
        matcher.accept(token)
        answer.append(token)
        if matcher.complete:
            return bytes(answer)
    return None


def write(matcher: Matcher, answer: bytes) -> None:
    for byte in answer:
        assert byte in matcher.allowed()
        matcher.accept(byte)


class SpacedTokenizer(ByteTokenizer):
    """Puts a space before a text, as vocabularies like Llama 2's do."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return super().encode(f" {text}" if text else text, add_special=add_special, parse_special=parse_special)


@pytest.mark.parametrize("schema", [{"const": "42"}, PERSON])
def test_no_space_comes_where_the_vocabulary_puts_one_before_a_text(schema: dict[str, Any]) -> None:
    matcher = GrammarCompiler(SpacedTokenizer(), ENGINE.info).matcher(Grammar.of_schema(schema))
    answer = drawn(matcher, Sampler(Sampling(temperature=1.0, seed=1)), np.random.default_rng(1))

    assert answer is not None
    jsonschema.validate(json.loads(answer), schema)


@pytest.mark.parametrize("n_schemas", [40, pytest.param(150, marks=pytest.mark.slow(5))])
def test_what_is_drawn_under_random_schemas_is_valid(compiler: GrammarCompiler, n_schemas: int) -> None:
    rng, n_ended = random.Random(7), 0
    for seed in range(n_schemas):
        schema = random_schema(rng)
        matcher = compiler.matcher(Grammar.of_schema(schema))
        answer = drawn(matcher, Sampler(Sampling(temperature=2.0, seed=seed)), np.random.default_rng(seed))
        if answer is not None:
            jsonschema.validate(json.loads(answer), schema)
            n_ended += 1
    assert n_ended == n_schemas


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=1.3, top_k=5, seed=1),
        Sampling(temperature=1.3, top_k=40, top_p=0.8, min_p=0.02, seed=2),
        Sampling(temperature=0.7, top_k=8, repetition_penalty=1.4, presence_penalty=0.5, seed=3),
        Sampling(temperature=1.0, top_p=0.9, seed=4),
        Sampling(seed=5),
    ],
)
def test_the_likeliest_tokens_are_drawn_from_as_the_whole_vocabulary_is(
    compiler: GrammarCompiler, sampling: Sampling
) -> None:
    """The oracle gives every token that is not allowed a logit of minus infinity."""
    rng = np.random.default_rng(3)
    matcher = compiler.matcher(Grammar.of_schema(PERSON))
    fast, slow = Sampler(sampling), Sampler(sampling)
    for _ in range(120):
        row = rng.normal(scale=3.0, size=VOCAB).astype(np.float32)
        masked = np.full(VOCAB, -np.inf, dtype=np.float32)
        masked[matcher.allowed()] = row[matcher.allowed()]
        token = fast.sample(row, matcher)
        assert token == slow.sample(masked)
        if token == END:
            break
        matcher.accept(token)
        if matcher.complete:
            break


def test_a_matcher_starts_anew_for_each_answer(compiler: GrammarCompiler) -> None:
    grammar = Grammar("choice", '["yes", "yet"]')
    first = compiler.matcher(grammar)
    for token in b"yes":
        first.accept(token)
    second = compiler.matcher(grammar)

    assert first.complete
    assert not second.complete
    assert second.forced() == (*b"ye",)
    assert list(second.allowed()) == [*b"y"]
    assert second.allows(np.array([*b"xyz"])).tolist() == [False, True, False]


TEXTS = tuple(tree.Text(f"choice {at}") for at in range(MAX_CHOICES))
CALLS = tuple(
    tree.sequence(f'{{"name": "tool{at}", "arguments": ', tree.Json({"type": "object"}), "}") for at in range(128)
)


@pytest.mark.parametrize(
    "root",
    [
        tree.OneOf(TEXTS),
        tree.OneOf(tuple(tree.OneOf(TEXTS[at : at + 32]) for at in range(0, MAX_CHOICES, 32))),
        tree.OneOf((tree.OneOf(TEXTS), *CALLS)),
    ],
)
def test_a_thousand_texts_to_choose_from(compiler: GrammarCompiler, root: tree.Node) -> None:
    choice = Grammar("choice", json.dumps([text.text for text in TEXTS]))
    for grammar in (choice, Grammar.of_tree(root)):
        matcher = compiler.matcher(grammar)
        for token in b"choice 102":
            matcher.accept(token)
        assert list(matcher.allowed()) == [*b"0123", END]


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("regex", "[0-9]{2}", b"42"),
        ("gbnf", 'root ::= "a" | "b" root', b"bba"),
        ("lark", 'start: "x"+ ', b"xx"),
        ("choice", '["größe"]', "größe".encode()),
        ("json_schema", '{"const": {"größe": 1}}', '{"größe":1}'.encode()),
    ],
)
def test_every_kind(compiler: GrammarCompiler, kind: GrammarKind, text: str, answer: bytes) -> None:
    matcher = compiler.matcher(Grammar(kind, text))
    for token in answer:
        assert matcher.allows(np.array([token]))[0]
        matcher.accept(token)
    assert matcher.complete or END in matcher.allowed()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", '{"$ref": "#"}'),
        ("json_schema", '{"not": {}}'),
        ("json_schema", '{"type": "strin"}'),
        ("json_schema", '{"oneOf": [{"type": "string"}, {"minLength": 3}]}'),
        ("regex", "(?=a)b"),
        ("gbnf", "root ::= ("),
        ("gbnf", "root ::= undefined"),
        ("lark", "start: missing"),
        ("gbnf", 'root ::= "a" root'),
        ("gbnf", 'start ::= "x"\nroot ::= "a" start'),
        ("lark", 'start: "a" start'),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(compiler: GrammarCompiler, kind: GrammarKind, text: str) -> None:
    with refuses(UsageError, param="grammar"):
        compiler.matcher(Grammar(kind, text, "grammar"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("json_schema", "[" * 20_000 + "]" * 20_000),
        ("json_schema", '{"a":' * 200 + "1" + "}" * 200),
        ("json_schema", json.dumps({"properties": {str(i): {} for i in range(101)}})),
        ("json_schema", json.dumps({"enum": ["x" * 20] * 4000})),
        ("json_schema", '{"$ref": "https://example.org/schema.json"}'),
        ("json_schema", "7"),
        ("json_schema", "{"),
        ("choice", "[]"),
        ("choice", '["a", 1]'),
        ("choice", json.dumps(["x"] * 1025)),
        ("regex", " "),
        ("regex", "(" * 65 + "a" + ")" * 65),
        ("json_schema", '{"const": 1e999}'),
        ("json_schema", '{"const": NaN}'),
        ("json_schema", json.dumps(CHAIN)),
        ("json_schema", json.dumps(CHAIN).replace("$ref", "\\u0024ref")),
        ("gbnf", "root ::= a0\n" + "".join(f"a{at} ::= a{at + 1}\n" for at in range(501))),
        ("lark", "start: b0\n" + "".join(f"b{at}: b{at + 1}\n" for at in range(501))),
        ("gbnf", f"start: %json {json.dumps(PERSON)}"),
        ("json_schema", json.dumps([{"properties": {str(i): {} for i in range(81)}}] * 5).join(('{"anyOf": ', "}"))),
    ],
)
def test_what_is_too_large_is_refused_before_the_library_sees_it(kind: GrammarKind, text: str) -> None:
    with refuses(UsageError, param="grammar", varies="column [0-9]+|char [0-9]+"):
        Grammar(kind, text, "grammar")


@pytest.mark.parametrize(
    "text", ['{"x-guidance": {"lenient": true}}', '{"items": {"minProperties": 2}}', '{"const": "a\\u0000b"}']
)
def test_what_the_library_would_not_keep_to_is_refused(text: str) -> None:
    with refuses(UsageError, param="grammar"):
        Grammar("json_schema", text, "grammar")


@pytest.mark.parametrize(("kind", "text"), [("foo", "x"), (None, "x"), ("regex", None), ("choice", ["a"])])
def test_a_grammar_of_no_kind_is_refused_where_it_is_made(kind: Any, text: Any) -> None:
    """A worker could not read it, and all its requests would end with it."""
    with refuses(UsageError):
        Grammar(kind, text)


def test_a_grammar_that_becomes_too_ambiguous_ends_with_an_error(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar("lark", 'start: e\ne: e e | "a" | e e e'))
    with refuses(GrammarFailed, varies="has [0-9]+ items"):
        for _ in range(4000):
            matcher.allowed()
            matcher.accept(ord("a"))


def test_a_failure_of_one_answer_does_not_outlast_it(compiler: GrammarCompiler) -> None:
    """The library keeps its error in what all copies of a grammar share: the next request has it compiled again."""
    grammar = Grammar("regex", "x(yes|no)|z((((a{1,50}){1,50}){1,50}){1,50})")
    failing, other = compiler.matcher(grammar), compiler.matcher(grammar)
    with pytest.raises(GrammarFailed):
        write(failing, b"z" + b"a" * 99)
    assert other.spoilt
    write(compiler.matcher(grammar), b"xyes")


def test_a_grammar_that_failed_is_not_kept() -> None:
    compiler = GrammarCompiler(ENGINE.tokenizer, ENGINE.info)
    failing = compiler.matcher(Grammar("regex", "z((((a{1,50}){1,50}){1,50}){1,50})"))
    with pytest.raises(GrammarFailed):
        write(failing, b"z" + b"a" * 99)
    del failing
    compiler.matcher(Grammar("choice", '["yes"]'))
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Matcher) and thing.spoilt]


def test_a_grammar_that_is_known_does_not_wait_for_one_that_is_compiled() -> None:
    known, other = (Grammar("choice", text) for text in ('["yes"]', '["no"]'))
    compiler = GrammarCompiler(ENGINE.tokenizer, ENGINE.info)
    assert compiler.kept(known) is None
    compiler.matcher(known)
    compiling, go_on, compile_ = threading.Event(), threading.Event(), compiler._compile

    def held(grammar: Grammar) -> Matcher:
        compiling.set()
        assert go_on.wait(PATIENCE_S)
        return compile_(grammar)

    compiler._compile = held  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(compiler.matcher, other)
        try:
            assert compiling.wait(PATIENCE_S)
            assert compiler.kept(other) is None
            matcher = compiler.kept(known)
            assert matcher is not None
            write(matcher, b"yes")
            assert not waiting.done()
        finally:
            go_on.set()
        write(waiting.result(PATIENCE_S), b"no")


def test_what_a_pattern_makes_the_library_keep_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.text.grammar_check.MAX_LEXER_STATES", 500)
    matcher = GrammarCompiler(ENGINE.tokenizer, ENGINE.info).matcher(Grammar("regex", "(.*a.{99}|.*b.{99}|.*c.{99})"))
    with pytest.raises(GrammarFailed):
        write(matcher, bytes(random.Random(1).choices(b"abc", k=2_000)))


def test_what_is_too_ambiguous_to_begin_is_told_from_what_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.text.grammar_check.MAX_STEP_ITEMS", 10)
    compiler = GrammarCompiler(ENGINE.tokenizer, ENGINE.info)
    with refuses(UsageError, param="grammar"):
        compiler.matcher(Grammar("lark", "start: (a | b)+\na: /./\nb: /[a-z]/", "grammar"))


ENDLESS = ('start: /[bcd]/ /a+/ "a"', "start: /(a+)+/ /(a+)+/ /(a+)+/", 'start: /a+/ "a"', "start: a a\na: /a+/")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "grammar",
    [
        *(Grammar("gbnf", text) for text in ENDLESS),
        *(Grammar("lark", text) for text in ENDLESS),
        Grammar("gbnf", 'root ::= "x" b b\nb ::= "a"+'),
        Grammar.of_tree(tree.Sequence((tree.Pattern(("a+",), "<"), tree.Text("a</value>")))),
    ],
)
def test_a_run_that_never_ends_is_not_looked_for(compiler: GrammarCompiler, grammar: Grammar) -> None:
    """Of some, only one byte may come for ever: the answer ends by its length, and no mask takes long."""
    matcher = compiler.matcher(grammar)
    for _ in range(30):
        allowed = [token for token in matcher.allowed() if token != END]
        if not allowed:
            break
        matcher.accept(allowed[0])
        assert len(matcher.forced()) < 100


DEEP = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 2} for at in range(60)} | {"d60": {"pattern": "a*"}}
WIDE = {
    "a": {"allOf": [{"$ref": "#/$defs/b"}] * 300},
    "b": {"allOf": [{"$ref": "#/$defs/c"}] * 300},
    "c": {"pattern": "a*"},
}


RULES = "".join(f"a{number} ::= a{number + 1}\n" for number in range(480))
HEAVY = {
    "deep": Grammar.of_schema({"$defs": DEEP, "properties": {"a": {"$ref": "#/$defs/d0"}}}),
    "wide": Grammar.of_schema({"$defs": WIDE, "allOf": [{"$ref": "#/$defs/a"}] * 300}),
    "pattern": Grammar("regex", "(a?b?.?)" * 7000),
    "tool": Grammar.of_tree(tree.Json({"$defs": DEEP, "properties": {"a": {"$ref": "#/$defs/d0"}}})),
    # Translated in as many passes over all of it as there are rules.
    "chain": Grammar("gbnf", "root ::= a0\n" + RULES + "a480 ::= [a]\nb ::= " + ". " * 20_000 + "b | [b]\n"),
}


@pytest.mark.parametrize("name", ["deep", *(pytest.param(name, marks=pytest.mark.slow(9)) for name in [*HEAVY][1:])])
def test_what_takes_all_memory_or_time_to_compile_is_refused(compiler: GrammarCompiler, name: str) -> None:
    with refuses(UsageError):
        compiler.matcher(HEAVY[name])


@pytest.mark.parametrize("name", HEAVY)
def test_what_may_take_long_to_compile_is_tried_apart(name: str) -> None:
    kind = HEAVY[name].kind
    assert [part.kind for part in parts_to_check(HEAVY[name])] == ["json_schema" if kind == "tree" else kind]


@pytest.mark.parametrize(("kind", "text"), [("gbnf", 'root ::= "a"'), ("lark", 'start: "a"')])
def test_grammars_of_clients_are_not_read_beside_answers(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch, kind: Any, text: str
) -> None:
    monkeypatch.delattr("edgellm.text.grammar_source.source")  # in this process

    assert len(compiler.matcher(Grammar(kind, text)).allowed()) == 1


def test_what_is_tried_apart_and_sound_is_used(compiler: GrammarCompiler) -> None:
    schema = {"anyOf": [{"$ref": "#/$defs/text"}, {"type": "null"}], "$defs": {"text": {"type": "string"}}}
    matcher = compiler.matcher(Grammar.of_schema(schema))
    assert bytes(matcher.allowed().tolist()) == b'"n'


def test_a_token_that_is_not_allowed_is_an_error(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar("choice", '["yes"]'))
    with pytest.raises(GrammarFailed):
        matcher.accept(ord("n"))


def test_without_the_library_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with refuses(BackendUnavailable):
        GrammarCompiler(ENGINE.tokenizer, ENGINE.info).matcher(Grammar("choice", '["yes"]'))


def test_on_a_system_that_is_too_old_for_it_the_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr(grammar_library, "look", lambda: GrammarLibrary("1.9.1", (2, 31), (2, 28)))
    with refuses(BackendUnavailable):
        GrammarCompiler(ENGINE.tokenizer, ENGINE.info).matcher(Grammar("choice", '["yes"]'))


def test_what_the_library_needs_is_what_its_wheel_says() -> None:
    library = grammar_library.look()
    assert library.version
    assert library.is_system_too_old is False
    assert sys.platform != "linux" or library.needed >= (2, 17)


def test_blanks_between_the_parts_of_json_are_bounded(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar.of_schema(PERSON))
    matcher.accept(ord("{"))
    n_blanks = 0
    while matcher.allows(np.array([ord(" ")]))[0]:
        matcher.accept(ord(" "))
        n_blanks += 1
        assert n_blanks < 100
    assert matcher.allows(np.array([ord('"')]))[0]


def test_a_key_has_one_spelling(compiler: GrammarCompiler) -> None:
    """Else a value that the schema refuses under a key would pass under the same key, escaped."""
    matcher = compiler.matcher(Grammar.of_schema({"type": "object", "properties": {"b": {"type": "null"}}}))
    for byte in b'{"\\':
        matcher.accept(byte)
    assert bytes(matcher.allowed().tolist()) == b'"\\bfnrt'


def test_the_schema_true_allows_any_json(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar("json_schema", "true"))
    assert matcher.allows(np.array([*b'7["{tfn'])).all()


def test_rows_beyond_the_tokens_are_never_drawn() -> None:
    info: Any = type("Info", (), {"vocab_size": VOCAB + 7, "eos_ids": frozenset({END})})
    matcher = GrammarCompiler(ENGINE.tokenizer, info).matcher(Grammar("regex", "(?s:.*)"))
    assert matcher.allowed().max() <= END


def test_a_grammar_of_blanks_is_read_at_once(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own look at its language is quadratic, and takes over a minute for these: it is not asked."""
    monkeypatch.delattr("llguidance.gbnf_to_lark.is_lark_syntax")
    with refuses(UsageError, param="grammar"):
        compiler.matcher(Grammar("gbnf", "\n" * 65_000 + "x"))


@pytest.mark.parametrize("closed", [False, True])
def test_as_many_properties_as_are_allowed(compiler: GrammarCompiler, *, closed: bool) -> None:
    """Where the last optional one is chosen, all before it were possible."""
    optional = [f"a{at}" for at in range(MAX_OPTIONAL)]
    required = [f"p{at}" for at in range(MAX_PROPERTIES - MAX_OPTIONAL)]
    properties = {name: {"type": "string"} for name in optional + required}
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": not closed}
    matcher = compiler.matcher(Grammar.of_schema(schema))
    write(matcher, b'{"a99":"')
    with refuses(UsageError, param="grammar"):
        compiler.matcher(Grammar.of_schema(schema | {"required": required[1:]}))


def test_lark_is_told_from_gbnf(compiler: GrammarCompiler) -> None:
    for text in ('\n start : "ab"', 'root ::= "ab"'):
        matcher = compiler.matcher(Grammar("gbnf", text))
        for byte in b"ab":
            assert matcher.allows(np.arange(256)).nonzero()[0].tolist() == [byte]
            matcher.accept(byte)


@pytest.mark.parametrize("kind", ["json_schema", "lark", "gbnf"])
def test_the_longest_chain_that_is_allowed_is_compiled(compiler: GrammarCompiler, kind: GrammarKind) -> None:
    """Five times below where the native stack ends; in the thread that compiles in a worker, whose stack is smaller."""
    defs = {f"d{at}": {"items": {"$ref": f"#/$defs/d{at + 1}"}} for at in range(98)} | {"d98": {"type": "null"}}
    texts = {
        "json_schema": json.dumps({"$defs": defs, "$ref": "#/$defs/d0"}),
        "lark": "start: b0\n" + "".join(f"b{at}: b{at + 1}\n" for at in range(498)) + 'b498: "x"',
        "gbnf": "root ::= a0\n" + "".join(f"a{at} ::= a{at + 1}\n" for at in range(498)) + 'a498 ::= "x"',
    }
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(compiler.matcher, Grammar(kind, texts[kind])).result().complete
