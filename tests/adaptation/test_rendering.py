"""What is learned of a conversation is what serving it would make of it: the tokens of the request, then the answer."""

from __future__ import annotations

import numpy as np
import pytest
from support.template_models import Bytes, template_model

from edgellm.adaptation.example import Example
from edgellm.adaptation.findings import Findings
from edgellm.adaptation.rendering import Renderer, encoder
from edgellm.text.prompt import PromptBuilder
from edgellm.types.message import Message, Tool, ToolCall
from edgellm.types.request import TokenizeRequest, check_context
from edgellm.types.tuning_data import DataProblem, DataReport, TrainingChat, TrainingPair, TrainingRecord, TrainingText

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = f"{{% for m in messages %}}{TURN}{{% endfor %}}{OPENS}"
# As DeepSeek R1's: a thought is opened, and messages of the past have none.
R1 = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}"
    "{{ '</s>' if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
# As Qwen 3's: the last thought is written, those before it are not.
LAST_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.reasoning_content %}<think>\n"
    f"{{{{ m.reasoning_content }}}}\n</think>\n\n{{% endif %}}{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}{OPENS}"
)
# As gpt-oss's: the last answer ends in another way than those before it.
TWO_ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{{ '</s>' if loop.last and not add_generation_prompt else '<|next|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_END = (
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS = (
    "{% for t in tools or [] %}<tools>{{ t | tojson }}</tools>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
    f"<|im_end|>\n{{% endfor %}}{OPENS}"
)
USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello")


class Shown:
    """Examples as text: what is learned stands in braces."""

    def __init__(self, template: str, *records: TrainingRecord, length: int = 1000, raw: bool = False) -> None:
        info, self.tokenizer = template_model(template, Bytes())
        findings = Findings()
        renderer = Renderer(info, encoder(self.tokenizer), PromptBuilder(info), length=length, raw=raw)
        self.examples = [example for record in records for example in renderer.examples(record, findings)]
        self.texts = [self.text(example) for example in self.examples]
        self.report = findings.report

    def text(self, example: Example) -> str:
        out, inside = "", False
        for token, learned in zip(example.tokens.tolist(), example.supervised.tolist(), strict=True):
            out += "}" * (inside and not learned) + "{" * (learned and not inside) + self.tokenizer.text(token)
            inside = learned
        return out + "}" * inside


def chat(*messages: Message, **fields: object) -> TrainingChat:
    return TrainingChat(1, messages, **fields)


def test_answers_of_a_stable_template_share_an_example() -> None:
    shown = Shown(CHATML, chat(USER, ANSWER, Message("user", "More"), Message("assistant", "Much")))

    first = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{Hello<|im_end|>}\n"
    assert shown.texts == [first + "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n{Much<|im_end|>}"]
    (example,) = shown.examples
    n_learned = len("Hello") + len("Much") + 2
    report = DataReport(0, 0, n_examples=1, n_tokens=len(example), n_supervised=n_learned, longest=len(example))
    assert shown.report == report


def test_what_is_only_read_is_not_learned() -> None:
    turns = (USER, ANSWER, USER, Message("assistant", "Much"))
    shown = Shown(CHATML, chat(*turns, unlearned=frozenset({1})))

    assert [text.count("{") for text in shown.texts] == [1]
    assert "Hello<|im_end|>" in shown.texts[0]
    assert "{Much<|im_end|>}" in shown.texts[0]


def test_nobody_asks_for_what_comes_first() -> None:
    shown = Shown(CHATML, chat(ANSWER, USER, ANSWER), TrainingChat(2, (ANSWER,)))

    assert shown.texts[0].startswith("<s><|im_start|>assistant\nHello<|im_end|>\n")
    assert len(shown.texts) == 1
    assert shown.report.problems == (DataProblem(2, "no_answer"),)


def test_special_texts_in_somebodys_words_stay_text() -> None:
    shown = Shown(CHATML, chat(Message("user", "a<|im_end|>b"), Message("assistant", "c<|im_end|>d")))
    end = shown.tokenizer.specials["<|im_end|>"]
    (example,) = shown.examples

    assert list(example.tokens).count(end) == 2
    assert shown.texts[0].endswith("{c<|im_end|>d<|im_end|>}")
    assert example.tokens[-1] == end


def test_no_token_spans_the_end_of_the_prompt() -> None:
    """The model wrote the line feed by itself, behind that of the prompt."""
    shown = Shown(CHATML, chat(USER, Message("assistant", "\nHello")))
    (example,) = shown.examples

    assert list(example.tokens[example.supervised][:2]) == [ord("\n"), ord("H")]


def test_an_answer_of_many_examples_is_turned_into_tokens_once() -> None:
    info, tokenizer = template_model(CHATML, Bytes())
    texts: list[str] = []

    def encode(text: str, cuts: tuple[int, ...], *, add_bos: bool, parse_special: bool) -> list[int]:
        texts.append(text)
        return encoder(tokenizer)(text, cuts, add_bos=add_bos, parse_special=parse_special)

    renderer, findings = Renderer(info, encode, PromptBuilder(info), length=1000), Findings()
    n_before = len(texts)
    asked = [Message("user", text) for text in ("a", "b", "c")]
    examples = [example for one in asked for example in renderer.examples(chat(one, ANSWER), findings)]

    assert [text.count("Hello") for text in texts[n_before:]] == [0, 1, 0, 0]
    said = {tuple(example.tokens[example.supervised].tolist()) for example in examples}
    assert len(said) == 1
    assert len(examples) == len(asked)


def test_where_serving_would_join_tokens_answers_have_examples_of_their_own() -> None:
    """The next request has the two line feeds as one token, which the answer could not have."""
    turns = (USER, Message("assistant", "\nHello"), USER, ANSWER)
    shown = Shown(CHATML, chat(*turns))

    assert len(shown.examples) == 2
    assert 256 in shown.examples[1].tokens
    assert 256 not in shown.examples[0].tokens
    assert shown.report.problems == (DataProblem(1, "in_pieces", value="2"),)


def test_a_thought_that_the_prompt_opens_is_ended_by_the_answer() -> None:
    shown = Shown(R1, chat(USER, ANSWER), chat(USER, Message("assistant", "Hello", "A greeting.")))

    asked = "<s><|user|>Hi<|assistant|><think>\n"
    assert shown.texts == [f"{asked}{{\n</think>\n\nHello</s>}}", f"{asked}{{A greeting.\n</think>\n\nHello</s>}}"]
    assert shown.report.problems == ()


def test_thoughts_of_the_past_are_left_out_as_in_requests() -> None:
    thoughts = [Message("assistant", "Hello", "They greet."), Message("assistant", "Bye", "They go.")]
    shown = Shown(LAST_THOUGHT, chat(USER, thoughts[0], Message("user", "Bye"), thoughts[1]))

    assert [text.partition("{")[2] for text in shown.texts] == [
        "<think>\nThey greet.\n</think>\n\nHello<|im_end|>}",
        "<think>\nThey go.\n</think>\n\nBye<|im_end|>}",
    ]
    assert "They greet" not in shown.texts[1]
    assert shown.report.counts == {"in_pieces": 1}


def test_the_end_of_an_answer_is_that_of_the_last_one() -> None:
    shown = Shown(TWO_ENDS, chat(USER, ANSWER, USER, ANSWER))

    assert [text.partition("{")[2] for text in shown.texts] == ["Hello</s>}", "Hello</s>}"]
    assert "Hello<|next|>" in shown.texts[1]


def test_where_the_template_has_no_end_the_models_own_is_learned() -> None:
    shown = Shown(NO_END, chat(USER, ANSWER))

    assert shown.texts == ["<s><|user|> Hi\n\n<|assistant|>{ Hello</s>}"]
    assert shown.report.problems == (DataProblem(1, "end_added", "messages[1]"),)


def test_calls_are_learned_as_they_are_served_and_read() -> None:
    tool = Tool("look", "Looks.", {"type": "object"})
    called = Message("assistant", calls=(ToolCall("look", '{"at": "sky"}', "c1"),))
    shown = Shown(CALLS, chat(USER, called, Message("tool", "blue", call_id="c1"), ANSWER, tools=(tool,)))

    call = '{"name": "look", "arguments": {"at": "sky"}}'
    assert f"\n{{<tool_call>\n{call}\n</tool_call><|im_end|>}}\n" in shown.texts[0]
    assert shown.texts[0].endswith("{Hello<|im_end|>}")
    assert shown.report.problems == ()


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        (CHATML.replace("m.content", "m.content | upper"), "answer_changed"),
        (CHATML.replace("m.content", "m.content if m.role == 'user'"), "answer_changed"),
        (
            CHATML.replace("{% for", "{% if messages[1] %}{{ raise_exception('no') }}{% endif %}{% for", 1),
            "template_refused",
        ),
        ("{% broken", "template_refused"),
    ],
)
def test_what_a_template_does_not_write_is_refused(template: str, kind: str) -> None:
    shown = Shown(template, chat(USER, ANSWER))

    assert shown.examples == []
    assert [(problem.kind, problem.field) for problem in shown.report.problems] == [(kind, "messages[1]")]
    assert shown.report.n_refused == 1


def test_a_thought_that_the_template_does_not_write_is_told() -> None:
    shown = Shown(CHATML, chat(USER, Message("assistant", "Hello", "They greet.")))

    assert shown.texts[0].endswith("{Hello<|im_end|>}")
    assert shown.report.problems == (DataProblem(1, "thought_left_out", "messages[1]"),)
    assert not shown.report.n_refused


def test_an_answer_that_does_not_fit_is_cut_and_told() -> None:
    whole = Shown(CHATML, chat(USER, ANSWER)).examples[0]
    shown = Shown(CHATML, chat(USER, ANSWER), length=len(whole) - 2)

    assert shown.texts[0].endswith("{Hell}")
    assert shown.report.problems == (DataProblem(1, "truncated", value=str(len(whole))),)
    assert (shown.report.longest, shown.report.n_refused) == (len(whole), 0)


def test_an_example_without_anything_to_learn_is_refused() -> None:
    n_read = int(np.argmax(Shown(CHATML, chat(USER, ANSWER)).examples[0].supervised))
    shown = Shown(CHATML, chat(USER, ANSWER), length=n_read)

    assert shown.examples == []
    assert shown.report.problems == (DataProblem(1, "nothing_supervised", value=str(n_read)),)
    assert shown.report.n_refused == 1


def test_a_pair_is_a_question_and_its_answer_or_a_text_that_goes_on() -> None:
    pair = TrainingPair(1, "Hi<|im_end|>", " the</s>re")
    asked = Shown(CHATML, pair)
    raw = Shown(CHATML, pair, TrainingPair(2, "", "Hi"), raw=True)

    assert asked.texts == ["<s><|im_start|>user\nHi<|im_end|><|im_end|>\n<|im_start|>assistant\n{ the</s>re<|im_end|>}"]
    assert raw.texts == ["<s>Hi<|im_end|>{ the</s>re</s>}", "<s>{Hi</s>}"]
    specials = raw.tokenizer.specials
    assert [int(token) for token in raw.examples[0].tokens if int(token) > 256] == [
        specials["<s>"], specials["<|im_end|>"], specials["</s>"],
    ]  # fmt: skip


def test_every_token_of_a_text_is_learned_once() -> None:
    text = "All of it, piece by piece: <|im_end|>."
    shown = Shown(CHATML, TrainingText(1, text), length=10)

    assert "".join(part[part.index("{") + 1 : -1] for part in shown.texts) == f"{text}</s>"
    assert all(len(example) <= 10 and not example.supervised[0] for example in shown.examples)
    assert shown.report.problems == (DataProblem(1, "in_pieces", value=str(len(shown.examples))),)


def test_without_a_template_conversations_are_refused() -> None:
    info, tokenizer = template_model(CHATML, Bytes())
    findings = Findings()
    renderer = Renderer(info, encoder(tokenizer), None, length=100)

    assert renderer.examples(chat(USER, ANSWER), findings) == []
    assert len(renderer.examples(TrainingPair(2, "Hi", " there"), findings)) == 1
    assert findings.report.problems == (DataProblem(1, "no_template"),)


def test_a_text_that_is_longer_than_any_request_is_named_with_its_line() -> None:
    info, tokenizer = template_model(CHATML, Bytes())
    findings = Findings()

    def encode(text: str, cuts: tuple[int, ...], *, add_bos: bool, parse_special: bool) -> list[int]:
        check_context(TokenizeRequest(text, cuts, parse_special, add_bos), info.n_ctx)
        return encoder(tokenizer)(text, cuts, add_bos=add_bos, parse_special=parse_special)

    renderer = Renderer(info, encode, None, length=100, raw=True)
    records = (
        TrainingText(1, "x" * 1_100_000),
        TrainingPair(2, "x" * 1_100_000, " there"),
        TrainingPair(3, "Hi", " there"),
    )

    assert [len(renderer.examples(record, findings)) for record in records] == [0, 0, 1]
    assert [(of.line, of.kind) for of in findings.report.problems] == [(1, "not_tokenized"), (2, "not_tokenized")]
    assert "1100000 bytes" in str(findings.report.problems[0].value)
