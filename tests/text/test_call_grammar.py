"""Calls that are forced: what a model without any knowledge writes is read back as a call that is valid."""

from __future__ import annotations

import contextlib
import json
import re
import tracemalloc
from typing import Any

import jsonschema
import numpy as np
import pytest
from support.call_rows import ROWS
from support.refusals import refuses

from edgellm.builtin.echo import ByteTokenizer, EchoEngine
from edgellm.errors import GrammarFailed, UnsupportedField, UsageError
from edgellm.text.call_grammar import MAX_CALLS, call_grammar
from edgellm.text.matcher import GrammarCompiler
from edgellm.text.readers import reader_of
from edgellm.text.sampling import Sampler
from edgellm.types.grammar import Grammar
from edgellm.types.markup import (
    CallMarkup,
    JsonCalls,
    Markup,
    Reading,
)
from edgellm.types.message import MAX_TOOLS, NamedTool, TextInput, Tool, ToolCall, ToolChoice
from edgellm.types.plan import Settings
from edgellm.types.sampling import Sampling

ENGINE = EchoEngine(Settings(n_ctx=64))
END = 256
WEATHER = Tool(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"enum": ["°C", "°F"]},
            "hours": {"type": "array", "items": {"$ref": "#/$defs/hour"}, "maxItems": 2},
            "exact": {"type": "boolean"},
            "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
            "where": {
                "type": "object",
                "properties": {
                    "lat": {"type": "number", "minimum": -90, "maximum": 90},
                    "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                },
                "required": ["lat"],
                "additionalProperties": False,
            },
        },
        "required": ["city", "unit"],
        "$defs": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}},
    },
)
PING = Tool("ping-2.0", parameters={})
TOOLS = (WEATHER, PING)


class MarkerTokenizer(ByteTokenizer):
    """Bytes, and markers as control tokens behind the end."""

    MARKERS = ("[TOOL_CALLS]", "[ARGS]", "<tool_call>", "</tool_call>", "<calls>", "</parameter>")

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        pieces, special = super().pieces()
        return [*pieces, *map(str.encode, self.MARKERS)], special | {*range(END + 1, END + 1 + len(self.MARKERS))}

    def text(self, token: int) -> str:
        return self.MARKERS[token - END - 1]


N_VOCAB = END + 1 + len(MarkerTokenizer.MARKERS)


@pytest.fixture(scope="module", params=[ByteTokenizer, MarkerTokenizer], ids=["texts", "control-tokens"])
def compiler(request: pytest.FixtureRequest) -> GrammarCompiler:
    info: Any = type("Info", (), {"vocab_size": N_VOCAB, "eos_ids": frozenset({END})})
    # Whether a part takes too long to compile is asked in a process for each: tests/text/test_matcher.py.
    return GrammarCompiler(request.param(), info, trusts=True)


def written(compiler: GrammarCompiler, grammar: Grammar, seed: int, *, most: int = 3000) -> str | None:
    """An answer over random logits that often end it; None where it did not end."""
    matcher, sampler, rng = compiler.matcher(grammar), Sampler(Sampling(seed=seed)), np.random.default_rng(seed)
    answer = b""
    for _ in range(most):
        logits = rng.normal(size=N_VOCAB).astype(np.float32)
        logits[END] += 0.5
        token = sampler.sample(logits, matcher)
        if token == END:
            return answer.decode()
        matcher.accept(token)
        answer += bytes([token]) if token < END else MarkerTokenizer().text(token).encode()
        if matcher.complete:
            return answer.decode()
    return None


def calls_of(text: str, row: CallMarkup, tools: tuple[Tool, ...] = TOOLS) -> tuple[str, list[ToolCall]]:
    """The text beside calls, and the calls, as the reader of the same row finds them."""
    reader = reader_of(Reading(Markup(calls=row), tools=tools))
    parts = [*reader.push(text), *reader.finish()]
    names = {part.call: part.text for part in parts if part.kind == "call_name"}
    arguments = dict.fromkeys(names, "")
    for part in parts:
        if part.kind == "call_arguments":
            arguments[part.call] += part.text
    said = "".join(part.text for part in parts if part.kind == "text")
    return said, [ToolCall(name, arguments[call]) for call, name in names.items()]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    ("compiler", "choice"),
    [
        pytest.param(ByteTokenizer, "required", id="texts-required", marks=pytest.mark.slow(4)),
        pytest.param(ByteTokenizer, NamedTool("get_weather"), id="texts-named"),
        pytest.param(MarkerTokenizer, "required", id="control-tokens-required"),
        pytest.param(MarkerTokenizer, NamedTool("get_weather"), id="control-tokens-named", marks=pytest.mark.slow(6)),
    ],
    indirect=["compiler"],
)
def test_a_forced_answer_is_a_valid_call(compiler: GrammarCompiler, name: str, choice: ToolChoice) -> None:
    row, n_calls, n_ended = ROWS[name], 0, 0
    grammar = call_grammar(Markup(calls=row), TOOLS, choice, parallel=True)
    assert grammar is not None
    for seed in range(8):
        text = written(compiler, grammar, seed)
        if text is None:
            continue
        said, calls = calls_of(text, row)
        assert calls, text
        assert not said.strip(), text
        for call in calls:
            tool = next(tool for tool in TOOLS if tool.name == call.name)
            jsonschema.validate(json.loads(call.arguments), {"type": "object", **tool.parameters})
        n_ended += 1
        n_calls += len(calls)
    assert n_ended >= 6
    assert (n_calls > n_ended) == (choice == "required")


COMMAND = r'[a-z]{1,3}( "[^"<]{0,3}"|\\|\n){1,3}'
LINES = r"""
start: line~1..3
line: "+" WORD ["\"" "0".."9"] LF
WORD: /[a-zé]{1,3}/
%import common.LF
"""


@pytest.mark.parametrize("name", ["hermes", "named", "tagged", "python", "braces", "attributes", "nested"])
@pytest.mark.parametrize(
    ("text", "pattern"),
    [(TextInput(COMMAND), COMMAND), (TextInput(LINES, "lark"), '(\\+[a-zé]{1,3}("[0-9])?\n){1,3}')],
    ids=["regex", "lark"],
)
def test_a_forced_text_matches_its_definition(
    bytes_only: GrammarCompiler, name: str, text: TextInput, pattern: str
) -> None:
    tool = Tool("shell", input=text)
    grammar = call_grammar(Markup(calls=ROWS[name]), (tool,), "required", parallel=False)
    assert grammar is not None
    inputs = set()
    for seed in range(6):
        answer = written(bytes_only, grammar, seed)
        assert answer is not None
        said, (call,) = calls_of(answer, ROWS[name], (tool,))
        assert not said.strip(), answer
        arguments = json.loads(call.arguments)
        assert arguments.keys() == {"input"}
        assert re.fullmatch(pattern, arguments["input"]), arguments
        inputs.add(arguments["input"])
    assert len(inputs) > 1


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_text_with_a_definition_is_kept_to_whenever_it_is_called(
    bytes_only: GrammarCompiler, choice: ToolChoice
) -> None:
    tools = (Tool("shell", input=TextInput("^ls( -l)?$")), Tool("echo", input=TextInput()))
    grammar = call_grammar(Markup(calls=ROWS["hermes"]), tools, choice, parallel=True)
    assert grammar is not None
    call = '<tool_call>\n{"name": "%s", "arguments": {"input": "%s'
    assert follows(bytes_only, grammar, call % ("shell", 'ls -l"}}'))
    assert not follows(bytes_only, grammar, call % ("shell", "lsx"))
    assert not follows(bytes_only, grammar, call % ("shell", 'ls -"'))
    assert follows(bytes_only, grammar, call % ("echo", 'lsx"}'))


@pytest.mark.parametrize(
    ("definition", "text", "matches"),
    [
        ('[^"]', '"', False),
        ('[^"]', "\\", True),
        ("[^\\\\]", "\\", False),
        ("[^-a]", "-", False),
        ("[^-a]", "A", True),
        ("[^]a]", "]", False),
        ("[^]a]", "-", True),
        ("[^-]", "-", False),
        (r"\[[^\]]", "[]", False),
        ("a[b[^c]]", "ac", False),
        (".", '"', True),
    ],
)
def test_a_class_means_in_json_what_it_means_elsewhere(
    bytes_only: GrammarCompiler, definition: str, text: str, matches: bool
) -> None:
    tool = Tool("shell", input=TextInput(definition))
    grammar = call_grammar(Markup(calls=ROWS["hermes"]), (tool,), "required", parallel=False)
    assert grammar is not None
    call = '<tool_call>\n{"name": "shell", "arguments": ' + json.dumps({"input": text})
    assert follows(bytes_only, grammar, call) is matches


@pytest.mark.parametrize("definition", ["^ls$", "^ls", "ls$", "ls", "^ls$|^cat$"])
@pytest.mark.parametrize(
    ("name", "call", "end"),
    [
        ("keys", "<tool_call>f\n<arg_key>input</arg_key>\n<arg_value>", "</arg_value>"),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"input": "', '"}}'),
    ],
)
def test_a_definition_is_of_the_whole_text(
    bytes_only: GrammarCompiler, name: str, call: str, end: str, definition: str
) -> None:
    tool = Tool("f", input=TextInput(definition))
    grammar = call_grammar(Markup(calls=ROWS[name]), (tool,), "required", parallel=False)
    assert grammar is not None
    assert follows(bytes_only, grammar, f"{call}ls{end}")
    assert not follows(bytes_only, grammar, f"{call}lsx")
    assert not follows(bytes_only, grammar, f"{call}x")


def test_any_text_needs_no_grammar() -> None:
    tools = (Tool("echo", input=TextInput()),)
    assert call_grammar(Markup(calls=ROWS["hermes"]), tools, "auto", parallel=True) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (TextInput("a)(b"), UsageError),
        (TextInput("(?=a)b"), UsageError),
        (TextInput('start: "(" start ")" | "x"', "lark"), UnsupportedField),
        (
            TextInput("start: a0\n" + "\n".join(f"a{n}: (a{n + 1})" for n in range(60)) + '\na60: "x"', "lark"),
            UsageError,
        ),
    ],
    ids=["brackets", "ahead", "recursion", "deep"],
)
def test_a_definition_that_calls_cannot_be_kept_to_is_refused(
    bytes_only: GrammarCompiler, text: TextInput, kind: type[UsageError]
) -> None:
    with refuses(kind, param="tools"):
        grammar = call_grammar(Markup(calls=ROWS["hermes"]), (Tool("shell", input=text),), "required", parallel=False)
        assert grammar is not None
        bytes_only.matcher(grammar)


def follows(compiler: GrammarCompiler, grammar: Grammar, text: str) -> bool:
    """Whether an answer may begin with the text."""
    matcher = compiler.matcher(grammar)
    try:
        for byte in text.encode():
            matcher.accept(byte)
    except GrammarFailed:
        return False
    return True


COMMENTARY = "<|channel|>commentary"
STRICT = Tool("get_weather", parameters=WEATHER.parameters, strict=True)


@pytest.fixture(scope="module")
def bytes_only() -> GrammarCompiler:
    return GrammarCompiler(ENGINE.tokenizer, ENGINE.info, trusts=True)


@pytest.mark.parametrize(
    ("name", "said", "call"),
    [
        ("hermes", "Let me see. <tool", '<tool_call>\n{"name": "get_weather", "arguments": '),
        ("bare", "It is [not] {known}", '{"name": "get_weather", "parameters": '),
        (
            "messages",
            "<|channel|>final<|message|>{",
            f"{COMMENTARY} to=functions.get_weather <|constrain|>json<|message|>",
        ),
        ("recipients", ">>>all\n{}", ">>>get_weather\n"),
    ],
)
def test_a_call_that_the_model_chooses_keeps_to_a_strict_schema(
    bytes_only: GrammarCompiler, name: str, said: str, call: str
) -> None:
    grammar = call_grammar(Markup(calls=ROWS[name]), (STRICT, PING), "auto", parallel=True)
    assert grammar is not None
    assert follows(bytes_only, grammar, said)
    before = "" if name != "hermes" else "Let me see. "
    assert follows(bytes_only, grammar, before + call + '{"city": "Rome", "unit": "°C"}')
    assert not follows(bytes_only, grammar, before + call + '{"town"')
    assert follows(bytes_only, grammar, before + call.replace("get_weather", "ping-2.0") + '{"anything"')
    assert not follows(bytes_only, grammar, before + call.replace("get_weather", "get_"))


def test_what_the_prompt_opened_is_not_opened_again(bytes_only: GrammarCompiler) -> None:
    markup = Markup(calls=ROWS["recipients"])
    grammar = call_grammar(markup, TOOLS, "required", parallel=True, opened="assistant\n\n>>>")
    assert grammar is not None
    assert follows(bytes_only, grammar, "ping-2.0\n{")
    assert not follows(bytes_only, grammar, ">>>")


def test_without_a_need_there_is_no_grammar() -> None:
    markup = Markup(calls=ROWS["hermes"])
    assert call_grammar(markup, TOOLS, "auto", parallel=True) is None
    assert call_grammar(markup, TOOLS, "none", parallel=True) is None
    assert call_grammar(Markup(), (), "auto", parallel=True) is None


@pytest.mark.parametrize("markup", [Markup(), Markup(calls=JsonCalls())])
def test_a_template_without_calls_gets_plain_json_or_text(bytes_only: GrammarCompiler, markup: Markup) -> None:
    grammar = call_grammar(markup, TOOLS, "auto", parallel=True)
    assert grammar is not None
    assert follows(bytes_only, grammar, "Hello {")
    assert follows(bytes_only, grammar, '{"name": "ping-2.0", "arguments": {')
    assert not follows(bytes_only, grammar, '{"name": "pong')


@pytest.mark.parametrize("name", ["hermes", "tagged", "users"])
def test_as_many_tools_as_are_allowed(bytes_only: GrammarCompiler, name: str) -> None:
    parameters = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(8)}}
    tools = [Tool(f"f{at}", parameters=parameters) for at in range(MAX_TOOLS)]
    grammar = call_grammar(Markup(calls=ROWS[name]), tools, "required", parallel=True)
    assert grammar is not None
    assert not bytes_only.matcher(grammar).complete
    with refuses(UsageError, param="tools"):
        call_grammar(Markup(calls=ROWS[name]), [*tools, PING], "required", parallel=True)


def test_as_many_calls_as_may_come(bytes_only: GrammarCompiler) -> None:
    call = '<tool_call>\n{"name": "ping-2.0", "arguments": {}}\n</tool_call>'
    for parallel in (True, False):
        grammar = call_grammar(Markup(calls=ROWS["hermes"]), TOOLS, "required", parallel=parallel)
        assert grammar is not None
        assert follows(bytes_only, grammar, call)
        assert follows(bytes_only, grammar, f"{call}\n<tool") == parallel
        assert follows(bytes_only, grammar, call * MAX_CALLS) == parallel
        assert not follows(bytes_only, grammar, call * (MAX_CALLS + 1))


@pytest.mark.parametrize("name", ["hermes", "keys", "braces"])
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "https://example.org/a.json"}}},
        {"properties": {"a": {"not": {"const": 1}}}},
        {"properties": [1]},
        {"properties": {"a": {"type": "string", "maxLength": -3}}},
        {"properties": {"a": {"enum": 3}}},
        {"properties": {"a": {"type": "string", "pattern": "(" * 100}}},
        {"properties": {f"p{at}": {"type": "string"} for at in range(2100)}},
        {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {
            f"d{at}": {"type": "object", "properties": {key: {"$ref": f"#/$defs/d{at + 1}"} for key in "xyz"}}
            for at in range(40)
        }},
        {"x-guidance": {"lenient": True}},
    ],
    ids=["remote", "not", "list", "length", "enum", "pattern", "many", "ever-more", "lenient"],
)  # fmt: skip
def test_a_schema_that_calls_cannot_be_kept_to_is_refused(
    bytes_only: GrammarCompiler, name: str, schema: dict[str, Any]
) -> None:
    with refuses(UsageError, param="tools"):
        grammar = call_grammar(Markup(calls=ROWS[name]), (Tool("f", parameters=schema),), "required", parallel=True)
        assert grammar is not None
        bytes_only.matcher(grammar)


REFERRING = {
    "properties": {f"p{at}": {"$ref": "#/$defs/colour"} for at in range(100)},
    "$defs": {"colour": {"enum": [f"colour {at}" for at in range(3000)]}},
}
SHORT = {"properties": {f"p{at}": {"type": "string"} for at in range(99)}}


@pytest.mark.parametrize("name", ["keys", "braces"])
@pytest.mark.parametrize(("n_tools", "schema"), [(1, REFERRING), (64, SHORT)], ids=["referring", "tools"])
def test_what_grows_beyond_its_bound_is_not_made(name: str, n_tools: int, schema: dict[str, Any]) -> None:
    """Kilobytes of schemas made a grammar of a gigabyte, which was refused once it was written down."""
    tools = [Tool(f"f{at}", parameters=schema) for at in range(n_tools)]
    tracemalloc.start()
    try:
        with contextlib.suppress(UsageError):
            call_grammar(Markup(calls=ROWS[name]), tools, "required", parallel=True)
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_schema_that_leads_in_a_circle_is_refused() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}}
    with refuses(UsageError, param="tools"):
        call_grammar(Markup(calls=ROWS["braces"]), (Tool("f", parameters=schema),), "required", parallel=True)


def test_a_pattern_cannot_end_its_expression(bytes_only: GrammarCompiler) -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": "^a/ | \\/\n/b$"}}, "required": ["a"]}
    grammar = call_grammar(Markup(calls=ROWS["keys"]), (Tool("f", parameters=schema),), "required", parallel=False)
    assert grammar is not None
    assert follows(bytes_only, grammar, "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>a/ </arg_value>")
    assert follows(bytes_only, grammar, "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value> /\n/b</arg_value>")


def test_text_ends_at_a_control_token() -> None:
    tokenizer = MarkerTokenizer()
    info: Any = type("Info", (), {"vocab_size": N_VOCAB, "eos_ids": frozenset({END})})
    tool = Tool("f", parameters={"properties": {"a": {"type": "string"}}, "required": ["a"]}, strict=True)
    marker = {text: END + 1 + at for at, text in enumerate(tokenizer.MARKERS)}
    for choice, before in (("auto", b"Well,\n"), ("required", b"")):
        grammar = call_grammar(Markup(calls=ROWS["tagged"]), (tool,), choice, parallel=False)  # type: ignore[arg-type]
        assert grammar is not None
        matcher = GrammarCompiler(tokenizer, info).matcher(grammar)
        head, tail = b"\n<function=f>\n<parameter=a>\n", b"\n</function>\n"
        for token in [*before, marker["<tool_call>"], *head, *b"text\n", marker["</parameter>"], *tail]:
            matcher.accept(token)
        assert matcher.allowed().tolist() == [marker["</tool_call>"]]


BAD_SCHEMAS = {
    "no_type": {"type": "strin"},
    "unique": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "pattern": {"type": "string", "pattern": "(?=a)b"},
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
@pytest.mark.parametrize("row", ["hermes", "tagged", "python"])
def test_of_many_tools_the_one_whose_schema_cannot_be_used_is_named(
    compiler: GrammarCompiler, row: str, name: str
) -> None:
    bad = Tool("bad", parameters={"type": "object", "properties": {"x": BAD_SCHEMAS[name]}, "required": ["x"]})
    tools = (WEATHER, bad, PING)
    with refuses(UsageError, param="tools") as caught:
        grammar = call_grammar(Markup(calls=ROWS[row]), tools, "required", parallel=True)
        assert grammar is not None
        compiler.matcher(grammar)
    assert "'bad'" in caught.value.message
    assert " at " not in caught.value.message


def test_of_two_the_first_is_named(compiler: GrammarCompiler) -> None:
    tools = [Tool(name, parameters={"properties": {"x": {"type": name}}}) for name in ("integer", "one", "two")]
    grammar = call_grammar(Markup(calls=ROWS["hermes"]), tools, "required", parallel=True)
    assert grammar is not None
    with refuses(UsageError, param="tools") as caught:
        compiler.matcher(grammar)
    assert "'one'" in caught.value.message
