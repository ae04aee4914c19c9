"""A model that says what a script says: its n-th answer in a conversation is the n-th text.

It is a plugin in the place of the echo model, so that programs that are no part of these tests can be told to use
`edgellm serve echo`, and so that its worker finds it:

    install(folder, ["<tool_call>...", "Done."]) gives the environment of the server
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.builtin.echo import CERTAIN, END, VOCAB, ByteTokenizer, EchoBackend, EchoEngine
from edgellm.types.plan import LaunchPlan, Settings
from support import fake_plugins

if TYPE_CHECKING:
    from edgellm.contract.engine import Engine, Logits

SCRIPT = "SCRIPTED_ANSWERS"
OPENS = "<|im_start|>assistant\n"
# As Hermes' and Qwen's: calls are JSON between markers, thoughts come first.
TEMPLATE = """
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class ScriptedTokenizer(ByteTokenizer):
    """One token a byte, and none around a prompt."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))


class ScriptedEngine(EchoEngine):
    def __init__(self, settings: Settings, script: Sequence[str]) -> None:
        from dataclasses import replace

        super().__init__(settings, float(os.environ.get("EDGELLM_ECHO_STEP_S", "0")))
        self.tokenizer = ScriptedTokenizer()
        self.info = replace(self.info, chat_template=TEMPLATE, add_bos=False, eos_text="<|im_end|>")
        self._script = [text.encode() for text in script]

    def _logits(self, tokens: list[int], n_logits: int) -> Logits:
        import numpy as np

        rows = np.zeros((n_logits, VOCAB), np.float32)
        for row in range(n_logits):
            rows[row, self._next(bytes(tokens[: len(tokens) - n_logits + row + 1]))] = CERTAIN
        return rows

    def _next(self, text: bytes) -> int:
        *before, answered = text.split(OPENS.encode())
        said = self._script[min(len(before), len(self._script)) - 1]
        return said[len(answered)] if len(answered) < len(said) else END


def take_the_place_of_echo() -> None:
    """What the plugin does where it is imported."""

    def open_scripted(_: EchoBackend, plan: LaunchPlan) -> Engine:
        return ScriptedEngine(plan.settings, json.loads(os.environ[SCRIPT]))

    EchoBackend.open = open_scripted  # type: ignore[method-assign]


def install(folder: Path, script: Sequence[str]) -> dict[str, str]:
    """The environment of a server whose echo model says this."""
    source = "from support.scripted import take_the_place_of_echo\n\ntake_the_place_of_echo()\n"
    fake_plugins.install(folder, "script", source)
    tests = Path(__file__).parents[1]
    return {"PYTHONPATH": f"{folder}:{tests}", SCRIPT: json.dumps(script), "EDGELLM_PLUGINS": "script"}


def called(name: str, **arguments: object) -> str:
    """A call of a tool, as the model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
