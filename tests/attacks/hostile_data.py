"""Files of training data that are sound, and those that somebody made to break their reader."""

from __future__ import annotations

import json

_ASKED = {"role": "user", "content": "Hi <|im_end|>"}
_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
_CALLED = {"from": "function_call", "value": '{"name": "look"}'}
_ROWS: list[dict[str, object]] = [
    {"messages": [_ASKED, {"role": "assistant", "content": "Hello", "reasoning_content": "Hm", "weight": 1}]},
    {
        "messages": [_ASKED, {"role": "assistant", "content": None, "tool_calls": [_CALL]}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    },
    {"conversations": [{"from": "human", "value": "Hi"}, _CALLED], "tools": '[{"name": "look"}]'},
    {"prompt": "One", "completion": "two"},
    {"instruction": "Say", "input": "it", "output": "It", "history": [["a", "b"]], "system": "Be kind"},
    {"text": "Text \ud83d\ude00"},
]
SOUND: dict[str, bytes] = {
    ".jsonl": b"\n".join(json.dumps(row).encode() for row in _ROWS),
    ".json": json.dumps(_ROWS).encode(),
    ".csv": b'prompt,completion\nOne,"two, ""three"""\nFour,"five\nsix"\n',
}
_DEEP = 50_000
LYING: dict[str, tuple[str, bytes]] = {
    "half of a character": (".jsonl", b'{"text": "\\ud800"}'),
    "a name twice": (".jsonl", b'{"text": "a", "text": 7, "text": {"text": "b"}}'),
    "deep lists": (".jsonl", b'{"messages": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"),
    "deep arguments": (".jsonl", json.dumps({"conversations": [_CALLED | {"value": '{"a":' * _DEEP}]}).encode()),
    "deep schema": (".jsonl", b'{"messages": [], "tools": "' + b"[" * _DEEP + b'"}'),
    "nothing but empty rows": (".jsonl", b"{}\n" * 20_000),
    "nothing but empty rows in a list": (".json", b"[" + b"{}," * 20_000 + b"{}]"),
    "nothing but line feeds": (".jsonl", b"\n" * 1_000_000),
    "a number of many digits": (".jsonl", b'{"text": ' + b"9" * 100_000 + b"}"),
    "many keys": (".jsonl", json.dumps({f"k{number}": 0 for number in range(50_000)} | {"text": "a"}).encode()),
    "many messages": (".jsonl", json.dumps({"messages": [_ASKED] * 20_000}).encode()),
    "bytes that are no text": (".jsonl", bytes(range(256)) * 100),
    "zeros": (".csv", b"\0" * 100_000),
    "a quotation without an end": (".csv", b'a,b\n"' + b"x" * 1_000_000),
    "columns without an end": (".csv", b"," * 500_000 + b"\n" + b"," * 500_000),
    "no names": (".csv", b"\n\n\n"),
    "nothing": (".jsonl", b""),
    "nothing in a list": (".json", b"[]"),
    "no list": (".json", b"7"),
}  # fmt: skip
