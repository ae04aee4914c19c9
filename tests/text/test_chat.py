"""Templates as models carry them, rendered to the strings those models were trained on."""

import threading
from datetime import datetime

import pytest
from support.refusals import refuses

from edgellm.errors import BadTemplate
from edgellm.text.chat import ChatTemplate
from edgellm.text.extent import MAX_SOURCE
from edgellm.types.message import Message

# As in the GGUF header of SmolLM2-135M-Instruct Q4_1.
SMOLLM2 = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content | trim ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' -}}
{% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token -}}
{% else %}
{{ raise_exception('Only user and assistant roles are supported!') -}}
{% endif %}
{% endfor %}"""

TURNS = [Message("user", " Hi <b> "), Message("assistant", "Hello é"), Message("user", "More")]


def render(source, messages=TURNS, **extra):
    template = ChatTemplate(source, bos_text="<s>", eos_text="</s>", clock=lambda: datetime(2026, 1, 2))
    return template.render(messages, **extra)


def test_smollm2():
    assert render(SMOLLM2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n Hi <b> <|im_end|>\n<|im_start|>assistant\nHello é<|im_end|>\n"
        "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n"
    )


def test_smollm2_without_generation_prompt():
    messages = [Message("system", "Be brief."), Message("user", "Hi")]

    text = render(SMOLLM2, messages, add_generation_prompt=False)

    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


def test_chatml():
    assert render(CHATML) == (
        "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\nHello é<|im_end|>\n"
        "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n"
    )


def test_llama3_writes_the_date_and_moves_the_system_message():
    messages = [Message("system", " Be brief. "), Message("user", "Hi")]

    assert render(LLAMA3, messages) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 02 Jan 2026\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_gemma3_puts_the_system_message_into_the_first_turn():
    messages = [Message("system", "Be brief."), *TURNS]

    assert render(GEMMA3, messages) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi <b><end_of_turn>\n<start_of_turn>model\nHello é<end_of_turn>\n"
        "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n"
    )


def test_gemma3_takes_content_in_parts():
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]

    assert render(GEMMA3, parts) == "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"


def test_mistral_with_trimmed_blocks():
    assert render(MISTRAL) == "<s>[INST]  Hi <b>  [/INST] Hello é</s>[INST] More [/INST]"


def test_what_the_template_raises_is_told_with_its_line():
    with refuses(BadTemplate) as caught:
        render(MISTRAL, [Message("system", "Be brief.")])

    assert caught.value.http_status == 400
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),
        ("{{ {'b': 1, 'a': '<'} | tojson }}", '{"b": 1, "a": "<"}'),
        ("{{ {'b': [1]} | tojson(indent=2) }}", '{\n  "b": [\n    1\n  ]\n}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "013"),
        ("{{ nothing }}|{{ messages[9] is defined }}|{{ nothing is undefined }}", "|False|True"),
        ("{{ tools is none }}", "True"),
        ("{{ messages | map(attribute='role') | join('-') }}", "user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{% for k, v in {'b': 2} | items %}{{ k }}{{ v }}{% endfor %}", "b2"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}", "12"),
        ("{% for x in 'a,b'.split(',') %}{{ loop.index }}/{{ loop.length }}{{ x.upper() }}{% endfor %}", "1/2A2/2B"),
        ("{% for x in [1, 2] | map('string') %}{{ loop.length }}{{ loop.last }}{% endfor %}", "2False2True"),
        ("{% for x in [[1, [2]]] recursive %}{{ x if x is not iterable else loop(x) }}{% endfor %}", "12"),
        ("{{ '%s-%03d' % ('a', 7) }}{{ '{:>3}'.format('b') }}{{ '%s' | format('c') }}", "a-007  bc"),
        ("{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}{{ (1, 2) + (3,) }}", "bc[3, 2, 1](1, 2, 3)"),
        ("{{ 'a' * 3 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ [0] * 2 }}", "aaa102433[0, 0]"),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ 'aXbX'.replace('X', '-', 1) }}{{ 'aX' | replace('X', '') }}", "a-bXa"),
        ("{{ [3, 1] | sort }}{{ [1, 1] | unique | list }}{{ [1, 2] | sum }}{{ [1, 2] | max }}", "[1, 3][1]32"),
        ("{% if 'a' in 'abc' and 1 < 2 <= 2 %}y{% endif %}", "y"),
        ("{% set x %}in {{ 1 }}{% endset %}{{ x }}{% filter upper %}up{% endfilter %}", "in 1UP"),
        ("{{ cycler('a', 'b').next() }}{{ dict(a=1) }}", "a{'a': 1}"),
        ("{{ '<a>' | safe + '<b>' }}{{ '<' | e }}", "<a><b>&lt;"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source, text):
    assert render(source, [Message("user", "<é>")]) == text


def test_a_failing_expression_is_told_with_its_line():
    with refuses(BadTemplate):
        render("a\n{{ nothing.x }}")


def test_a_syntax_error_is_told_with_its_line():
    with refuses(BadTemplate):
        ChatTemplate("a\n\n{% for %}")


def test_a_source_as_long_as_allowed_is_taken():
    assert len(render("a" * MAX_SOURCE)) == MAX_SOURCE
    with refuses(BadTemplate):
        ChatTemplate("a" * (MAX_SOURCE + 1))


def test_a_long_chat_fits_the_budget():
    messages = [Message("user" if i % 2 == 0 else "assistant", "word " * 200) for i in range(2000)]

    assert len(render(GEMMA3, messages)) > 2_000_000


def test_messages_are_not_changed():
    messages = [{"role": "user", "content": "Hi"}]

    render("{% set m = messages[0] %}{% set ns = namespace(m=m) %}{% set ns.m = 1 %}", messages)

    assert messages == [{"role": "user", "content": "Hi"}]


def test_threads_share_one_template_and_not_its_budget():
    template = ChatTemplate(SMOLLM2)
    prompt = template.render(TURNS)
    texts = []
    threads = [
        threading.Thread(target=lambda: texts.extend(template.render(TURNS) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert texts == [prompt] * 200


def test_the_same_source_is_compiled_once():
    assert ChatTemplate(CHATML)._template is ChatTemplate(CHATML, bos_text="<s>")._template


def test_half_of_a_character_is_the_templates_fault_unless_a_message_has_it():
    with refuses(BadTemplate):
        ChatTemplate("{{ '\\ud800' }}").render([Message("user", "Hi")])

    assert ChatTemplate("{{ messages[0].content }}").render([Message("user", "\ud800")]) == "\ud800"
