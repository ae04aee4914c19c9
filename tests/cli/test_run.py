"""`edgellm run`: one answer, and a conversation in a terminal."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from support.contexts import context
from support.loras import tiny_with
from support.refusals import check_refusal, refuses
from support.terminal import Terminal
from support.tiny_bert import TinyBert
from support.waiting import PATIENCE_S

from edgellm import explain, files
from edgellm.app import launch
from edgellm.catalog.lookup import catalog
from edgellm.cli import pull
from edgellm.cli import run as module
from edgellm.cli.main import cli
from edgellm.cli.run import command
from edgellm.cli.talk import Talk, thoughtless
from edgellm.errors import (
    BackendUnavailable,
    BadTemplate,
    ContextOverflow,
    UnknownAdapter,
    UnknownModel,
    UnsupportedTask,
    UsageError,
)
from edgellm.hardware import profiles
from edgellm.sdk.client import EdgeLLM
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.backend_reason import RatesSetAside
from edgellm.types.drift import Drift
from edgellm.types.reason import ContextLength, ProcessorsBusy, RulesUnasked
from edgellm.types.request import GenerationRequest, SelectionRequest
from edgellm.types.sampling import Sampling
from edgellm.types.sampling_defaults import SamplingPart

THINKER = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>{% endif %}{% endif %}"
)


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command, ["echo", "--no-isolate", *arguments], input=text, standalone_mode=False)


def test_a_schema_comes_through_a_pipe_or_the_pipe_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_named", partial(files.read_named, patience_s=0.05))
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        check_refusal(invoke("hello", "--schema", str(place)).exception, UsageError, param="schema")

    reading, writing = os.pipe()  # as a shell makes of `<(...)`
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b'{"type": 7}')
    check_refusal(invoke("hello", "--schema", f"/dev/fd/{reading}").exception, UsageError, param="schema")
    os.close(reading)


@pytest.mark.parametrize(("template", "thinks"), [(None, False), (THINKER, True)])
def test_a_model_that_cannot_think_is_told_where_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, template: str | None, thinks: bool
) -> None:
    with EdgeLLM.load("echo", isolate=False, thinking=True) as llm:
        if template is not None:
            llm._session._info = replace(llm.info, chat_template=template)  # type: ignore[attr-defined]
        assert (thoughtless(llm) == "") == thinks
    with EdgeLLM.load("echo", isolate=False) as llm:  # as planned for a card that says that it cannot
        assert "--think changes nothing" in thoughtless(llm)
    if template is None:
        assert "--think changes nothing" in invoke("hi", "--think").stderr
        assert "--think" not in invoke("hi").stderr


def test_stats_tell_what_differs_from_its_prediction() -> None:
    with EdgeLLM.load("echo") as llm:
        assert module._drifts(llm) == []
        llm.verification.drifts = (Drift("decode", "m", "Q4_K_M", 6.0, 12.0, None),)
        (line,) = module._drifts(llm)
    assert line.startswith("decode of m Q4_K_M")
    assert "edgellm calibrate" in line


@pytest.mark.parametrize(("measured", "said"), [(68.6, True), (27.0, False), (300.0, False)])
def test_stats_agree_with_what_the_start_said_of_other_programs(measured: float, *, said: bool) -> None:
    with EdgeLLM.load("echo", isolate=False) as llm:
        llm.plan = replace(llm.plan, reasons=(*llm.plan.reasons, ProcessorsBusy(9.5, 2, 2, 28.2)))
        llm.verification.drifts = (Drift("decode", "m", "Q4_K_M", measured, 207.0, None),)
        (line,) = module._drifts(llm)
    assert ("it may be as slow as 28.2 tok/s" in line) == said
    assert ("edgellm calibrate" in line) != said


def test_a_prompt_is_answered_once() -> None:
    result = invoke("hello wörld 🎈")

    assert result.stdout == "hello wörld 🎈\n"
    assert result.return_value == 0


@pytest.mark.parametrize("asks", [command, pull.command], ids=["run", "pull"])
def test_a_smaller_model_is_taken_with_a_word_of_why(asks: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, gguf = catalog(), BackendFacts("gguf", frozenset({"gguf"}))
    small = rows["smollm2-135m-instruct"]
    here = context(profiles.load("raspberry-pi-5-8gb"), rows.values(), [gguf], {small.files[0].source})
    decision = decide(here, SelectionRequest(offline=True))
    plan = launch.model_plan("echo", SelectionRequest())
    for command_module in (module, pull):
        monkeypatch.setattr(command_module, "make_plan", lambda *_, **__: (plan, decision))

    result = CliRunner().invoke(asks, [], input="hello", standalone_mode=False)

    assert "would be chosen" not in result.stdout
    assert decision.would_choose is not None
    for model in (decision.would_choose.model, small.id, "offline was asked for"):
        assert model in result.stderr


@pytest.mark.parametrize("asks", [command, pull.command], ids=["run", "pull"])
def test_who_only_fetches_is_not_told_how_busy_the_machine_is(
    asks: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = launch.model_plan("echo", SelectionRequest())
    plan = replace(plan, reasons=(*plan.reasons, ProcessorsBusy(9.5, 2, 2, 0.1)))
    for command_module in (module, pull):
        monkeypatch.setattr(command_module, "make_plan", lambda *_, **__: (plan, None))

    told = CliRunner().invoke(asks, [], input="hello", standalone_mode=False).stderr
    assert ("Busy:" in told) == (asks is command)


@pytest.mark.parametrize("asks", [command, pull.command], ids=["run", "pull"])
def test_rules_that_were_not_asked_are_told_unasked(asks: click.Command, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = launch.model_plan("echo", SelectionRequest())
    unasked = RulesUnasked("licences", "edgellm-licences 1.0", "ImportError: no list")
    plan = replace(plan, reasons=(unasked, *plan.reasons))
    for command_module in (module, pull):
        monkeypatch.setattr(command_module, "make_plan", lambda *_, **__: (plan, None))

    result = CliRunner().invoke(asks, [], input="hello", standalone_mode=False)
    assert explain.sentence(unasked) in result.stderr.replace("\n", " ")
    assert "licences" not in result.stdout


@pytest.mark.parametrize("chosen", [True, False])
def test_whoever_leaves_the_choice_is_told_of_rates_that_do_not_count(
    monkeypatch: pytest.MonkeyPatch, *, chosen: bool
) -> None:
    here = context(profiles.load("raspberry-pi-5-8gb"), catalog().values(), [BackendFacts("gguf", frozenset({"gguf"}))])
    decision = decide(here, SelectionRequest())
    plan = launch.model_plan("echo", SelectionRequest())
    plan = replace(plan, reasons=(*plan.reasons, RatesSetAside("gguf", 2, "2026-11-28", 0.63)))
    monkeypatch.setattr(module, "make_plan", lambda *_, **__: (plan, decision if chosen else None))

    told = CliRunner().invoke(command, [], input="hello", standalone_mode=False).stderr
    assert ("Rates: predicted" in told) == chosen


@pytest.mark.parametrize(("ctx", "warned"), [(8192, True), (8193, False)])
def test_whoever_names_a_model_is_warned_of_a_short_context(
    monkeypatch: pytest.MonkeyPatch, ctx: int, *, warned: bool
) -> None:
    plan = launch.model_plan("echo", SelectionRequest())
    plan = replace(plan, reasons=(*plan.reasons, ContextLength(ctx, "memory", 9.0, most=32768)))
    monkeypatch.setattr(module, "make_plan", lambda *_, **__: (plan, None))

    told = CliRunner().invoke(command, [], input="hello", standalone_mode=False).stderr
    assert ("8,192 tokens of the 32,768" in " ".join(told.split())) == warned


def test_tasks_of_models_that_do_not_chat_are_not_offered() -> None:
    line = next(line for line in CliRunner().invoke(command, ["--help"]).output.splitlines() if "--task" in line)
    assert "agent" in line
    assert "embed" not in line


def test_a_question_of_one_word_is_told_from_a_model() -> None:
    check_refusal(_on_a_terminal("hello"), UnknownModel)
    check_refusal(_on_a_terminal("no-such-model-7b"), UnknownModel)


def _on_a_terminal(*arguments: str) -> BaseException | None:
    """The error of `edgellm run` where standard input has no text, which a terminal's has not either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_question", lambda prompt: prompt)
        return CliRunner().invoke(command, arguments, standalone_mode=False).exception


def test_answers_are_drawn_as_is_said_in_the_conversation() -> None:
    with EdgeLLM.load("echo", isolate=False, sampling={"top_k": 7}) as llm:
        talk = Talk(llm)
        requests: list[GenerationRequest] = []
        generate = llm.generate
        llm.generate = lambda request: requests.append(request) or generate(request)  # type: ignore
        talk.draw_by("temperature", "0.25")
        talk.draw_by("seed", "5")
        talk.say("hello")
        assert (requests[-1].sampling.temperature, requests[-1].sampling.seed) == (0.25, 5)
        assert (talk.sampling.values.temperature, talk.sampling.values.top_k) == (0.25, 7)
        talk.draw_by("temperature")
        talk.say("hello")
        assert requests[-1].sampling.temperature is None
        for name, value in (("warmth", "1"), ("temperature", "hot"), ("temperature", "-1"), ("top_k", "0.5")):
            with refuses(UsageError):
                talk.draw_by(name, value)
        assert talk.sampling.values.temperature == llm.plan.sampling.values.temperature


def test_a_turn_that_fails_leaves_the_conversation_as_it_was() -> None:
    with EdgeLLM.load("echo", isolate=False, ctx=256) as llm:
        talk = Talk(llm)
        with refuses(ContextOverflow) as first:
            talk.say("too long " * 200)
        assert talk.say("short")
        with refuses(ContextOverflow) as later:
            talk.say("too long " * 200)
        assert talk.say("short again")
        assert [message.content for message in talk._messages if message.role == "user"] == ["short", "short again"]
    assert first.value.n_prompt == later.value.n_prompt, "what was said before does not count"
    assert "/reset" not in later.value.hint
    assert "1," in later.value.message, "numbers as everywhere"


@pytest.fixture
def short_llm() -> Iterator[EdgeLLM]:
    """Echo with a context of 512 tokens, of which each letter is one, and with a template that writes all messages."""
    with EdgeLLM.load("echo", isolate=False, ctx=512) as llm:
        llm._session._info = replace(  # type: ignore[attr-defined]
            llm.info, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        yield llm


def test_a_conversation_goes_on_without_its_oldest_turns(
    short_llm: EdgeLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Talk(short_llm, system="Be brief.", max_tokens=20)
    prompts: list[str] = []
    generate = short_llm.generate
    short_llm.generate = lambda request: prompts.append(request.prompt) or generate(request)  # type: ignore
    for number in range(30):
        assert talk.say(f"question {number} of some length")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("The context is full") == 1
    assert "cut off" not in told.replace("cut off after 20 tokens: that is --max-tokens", "")
    assert all(prompt.startswith("Be brief.question") for prompt in prompts)
    assert all(prompt.count(f"question {number} ") == 1 for number, prompt in enumerate(prompts))
    # What the model has read is a beginning of what comes next, but for a few times.
    assert sum(not later.startswith(prompt) for prompt, later in itertools.pairwise(prompts)) <= 5
    talk.reset()
    assert talk.say("short")
    assert prompts[-1] == "Be brief.short"


def test_a_question_that_is_too_long_alone_forgets_nothing(
    short_llm: EdgeLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = Talk(short_llm, max_tokens=20)
    for number in range(9):
        talk.say(f"question {number} of some length")
    said = list(talk._messages)
    with refuses(ContextOverflow, n_prompt=601):
        talk.say("y" * 600)
    assert talk._messages == said
    assert "is full" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "terminal", "hinted"), [([], True, True), (["--max-tokens", "9"], True, False), ([], False, False)]
)
def test_who_asks_once_on_a_terminal_is_told_how_an_answer_ends(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, terminal: bool, hinted: bool
) -> None:
    monkeypatch.setattr(module, "columns", lambda *, err=False: 80 if terminal else None)
    result = invoke("hello", *arguments)
    assert result.stdout == "hello\n"
    assert ("Ctrl-C ends the answer." in result.stderr) == hinted


def test_a_command_is_told_from_what_stands_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    with EdgeLLM.load("echo", isolate=False) as llm:
        talk = Talk(llm)
        for text in ("/explain now", "/set a b c", "/explode now"):
            module._obey(text, talk)
    shown = capsys.readouterr().out
    assert "/explain takes nothing behind it." in shown
    assert "/set takes a name and a number behind it." in shown
    assert "/explode is not a command." in shown


def test_a_pipe_is_answered_once() -> None:
    assert invoke(text="from a pipe\n").stdout == "from a pipe\n"


@pytest.mark.parametrize("raw", [[], ["--raw"]], ids=["chat", "raw"])
def test_a_pipe_is_read_below_the_prompt(raw: list[str]) -> None:
    result = invoke(*raw, "Summarise this text:", text="the fox is red\n")
    assert result.stdout == "Summarise this text:\n\nthe fox is red\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], ""), ([], " \n"), ([""], None), (["--raw"], "")],
    ids=["pipe", "blank", "prompt", "raw"],
)
def test_nothing_is_not_answered(arguments: list[str], text: str | None) -> None:
    check_refusal(invoke(*arguments, text=text).exception, UsageError, param="prompt")


@pytest.mark.parametrize("piped", [b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\0" * (2**20 + 1)], ids=["picture", "endless"])
def test_what_is_no_question_is_refused(monkeypatch: pytest.MonkeyPatch, piped: bytes) -> None:
    monkeypatch.setattr("edgellm.types.request.MAX_REQUEST_BYTES", 2**20)
    check_refusal(CliRunner().invoke(cli, ["run", "echo"], input=piped).exception, UsageError, param="prompt")


@pytest.mark.parametrize("arguments", [["caf\udce9"], ["Hi", "--system", "caf\udce9"], ["Hi", "--stop", "\udce9"]])
def test_bytes_that_are_no_text_are_refused_in_words_of_a_terminal(arguments: list[str]) -> None:
    """As the system passes them to a program, and as a pipe does under some locales."""
    error = CliRunner().invoke(cli, ["run", "echo", *arguments]).exception
    check_refusal(error, UsageError, param="prompt")
    assert "iconv" in str(error)


def test_a_pipe_of_surrogates_is_refused_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "stdin", io.StringIO("caf\udce9"))
    with refuses(UsageError, param="prompt"):
        module._question(None)


@pytest.mark.parametrize("question", ["Why is the sky blue?", "Is this 3/4 or 4/3?", "tell me: who"])
def test_a_question_in_the_place_of_the_model_is_told_so(question: str) -> None:
    check_refusal(CliRunner().invoke(cli, ["run", question], input="more of it").exception, UnknownModel)


def test_a_closed_standard_input_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "stdin", None)
    with refuses(UsageError, param="prompt"):
        command.main(["echo", "--no-isolate"], standalone_mode=False)


def test_raw_continues_text() -> None:
    assert invoke("--raw", "as it stands").stdout == "as it stands\n"


def test_limits_and_stops() -> None:
    cut = invoke("hello", "--max-tokens", "3")
    assert (cut.stdout, "cut off after 3 tokens: that is --max-tokens." in cut.stderr) == ("hel\n", True)
    assert "cut off" not in invoke("hello").stderr
    assert invoke("one two three", "--stop", "two").stdout == "one \n"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--top-p", "2"], "top_p"),
        (["x", "--raw", "--system", "s"], ""),
        (["x", "--max-tokens", "0"], "max_tokens"),
        (["x", "--ctx", "1"], "ctx"),
    ],
)
def test_values_out_of_range_are_refused(arguments: list[str], param: str) -> None:
    check_refusal(invoke(*arguments).exception, UsageError, param=param)


def test_what_no_answer_can_have_is_refused_before_a_model_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_plan", lambda *_args, **_more: pytest.fail("looked for"))
    check_refusal(invoke("x", "--max-tokens", "-3").exception, UsageError, param="max_tokens")
    check_refusal(invoke("x", "--stop", "s" * 1025).exception, UsageError, param="stop")


def test_sampling_flags_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    real = EdgeLLM.generate
    monkeypatch.setattr(EdgeLLM, "generate", lambda self, request: plans.append(self.plan) or real(self, request))
    flags = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--min-p", "0.1", "--seed", "7"]
    invoke("x", *flags, "--repetition-penalty", "1.1", "--presence-penalty", "0.2")

    assert plans[0].sampling.parts == (
        SamplingPart(
            "operator",
            Sampling(
                temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2, seed=7
            ),
        ),
    )


def test_a_seed_says_the_same_again() -> None:
    """Hot enough that the echo model says something else every time."""
    flags = ["hello there", "--temperature", "60", "--min-p", "0", "--top-k", "0", "--top-p", "1", "--max-tokens", "20"]
    said = [invoke(*flags, "--seed", seed).stdout for seed in ("7", "7", "8")]

    assert said[0] == said[1]
    assert said[1] != said[2]


def test_a_base_model_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.builtin.echo.TEMPLATE", None)
    check_refusal(invoke("x").exception, BadTemplate)
    assert invoke("x", "--raw").stdout == "x\n"


def test_importing_the_command_is_cheap() -> None:
    code = "import edgellm.cli.run, edgellm.cli.serve, sys; print({'starlette', 'numpy', 'rich'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal("run", "echo") as opened:
        yield opened


def test_a_conversation(terminal: Terminal) -> None:
    terminal.expect(">>> ")
    terminal.type("hello\n")
    terminal.expect("hello\r\nhello\r\n>>> ")
    terminal.type("/stats\n")
    terminal.expect("answer: 5 tokens")
    terminal.type("/set temperature 0.25\n")
    terminal.expect("temperature 0.25 (as asked)")
    terminal.type("/set warmth 1\n")
    terminal.expect("warmth")
    terminal.type("/explain\n")
    terminal.expect("Model: echo")
    terminal.type("/reset\n")
    terminal.expect("Forgotten.")
    terminal.type("/nonsense\n")
    terminal.expect("/nonsense is not a command.")
    terminal.expect(">>> ")
    terminal.type('"""one\ntwo"""\n')
    terminal.expect("one\r\ntwo\r\n>>> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE_S) == 0


EXITS = ("/quit", "/exit", "quit", "exit")


@pytest.mark.parametrize("word", ["/bye", *(pytest.param(w, marks=pytest.mark.slow(4)) for w in EXITS)])
def test_a_word_leaves_too(terminal: Terminal, word: str) -> None:
    terminal.expect(">>> ")
    terminal.type(f"{word}\n")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_a_model_cannot_steer_the_terminal() -> None:
    with Terminal("run", "echo", "a\x1b]0;title\x07b\x9bc") as terminal:
        terminal.expect("a]0;titlebc\r\n")


@pytest.mark.parametrize(
    "columns", [40, pytest.param(80, marks=pytest.mark.slow(1)), pytest.param(200, marks=pytest.mark.slow(1))]
)
def test_an_answer_is_wrapped_between_words(columns: int) -> None:
    words = [f"word{number:03}" for number in range(60)]
    per_line = (columns + 1) // len("word000 ")
    lines = [" ".join(words[start : start + per_line]) for start in range(0, len(words), per_line)]
    with Terminal("run", "echo", " ".join(words), columns=columns) as terminal:
        hint, *answer = terminal.rest().split("\r\n")
        assert "Ctrl-C" in hint
        assert answer == [*lines, ""]


def test_an_error_does_not_end_the_conversation(terminal: Terminal) -> None:
    terminal.expect(">>> ")
    for _ in range(5):
        terminal.type("x" * 900 + "\n")
        terminal.expect(">>> ")
    terminal.type('"""' + "\n".join(["y" * 900] * 6) + '"""\n')
    terminal.expect("Error: the prompt has")
    terminal.expect(">>> ")
    terminal.type("still here\n")
    terminal.expect("still here\r\nstill here\r\n")


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves() -> None:
    with Terminal("run", "echo", EDGELLM_ECHO_STEP_S="0.05") as terminal:
        terminal.expect(">>> ")
        terminal.type("z" * 400 + "\n")
        terminal.expect("z\r\nzzz")
        terminal.type("\x03")
        terminal.expect("(stopped)")
        terminal.expect(">>> ")
        terminal.type("/stats\n")
        terminal.expect("The last answer was stopped")
        terminal.expect(">>> ")
        # Python's input() misses an interrupt that comes within microseconds of its prompt.
        while not terminal.shows("Ctrl-D leaves", 1.0):
            terminal.type("\x03")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0


def test_an_adapter_answers_where_it_is_given(tmp_path: Path) -> None:
    model, loras = tiny_with(tmp_path, "mail")

    def say(*arguments: str) -> str:
        options = ["--no-isolate", "--temperature", "0", "--max-tokens", "8", "--threads", "1"]
        result = CliRunner().invoke(command, [str(model), "in the on", *options, *arguments], standalone_mode=False)
        assert result.exception is None
        return result.stdout

    assert say() == say() != say("--adapter", f"letters={loras['mail']}")


@pytest.mark.parametrize("raw", [(), ("--raw",)])
def test_a_model_that_only_embeds_says_what_it_is_for(tmp_path: Path, raw: tuple[str, ...]) -> None:
    folder = TinyBert().write(tmp_path / "tiny-bert")
    result = CliRunner().invoke(command, [str(folder), "--no-isolate", *raw, "hello"], standalone_mode=False)
    check_refusal(result.exception, UnsupportedTask)


def test_the_task_embed_is_refused_before_anything_is_chosen() -> None:
    result = CliRunner().invoke(command, ["--task", "embed"], input="hello", standalone_mode=False)
    check_refusal(result.exception, UnsupportedTask)
    named = CliRunner().invoke(command, ["all-minilm-l6-v2", "hello"], standalone_mode=False)
    check_refusal(named.exception, UnsupportedTask)


def test_a_backend_that_is_none_is_told_before_the_model() -> None:
    with refuses(BackendUnavailable):
        CliRunner().invoke(
            command, ["hi", "there", "--backend", "WRONG"], standalone_mode=False, catch_exceptions=False
        )


def test_an_adapter_that_is_none_is_told_with_the_way_to_those_there_are() -> None:
    with refuses(UnknownAdapter, adapter="nosuch"):
        CliRunner().invoke(
            command, ["echo", "there", "--adapter", "nosuch"], standalone_mode=False, catch_exceptions=False
        )
