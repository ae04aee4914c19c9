"""`edgellm run`: talk to a model in the terminal, or get one answer for a prompt or a pipe."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli._options import headline, launch_options, launches_to_chat, make_plan, samples, say_taken
from edgellm.cli.page import columns, examples, say, say_error, say_lines
from edgellm.cli.progress import waiting
from edgellm.cli.talk import Talk, thoughtless
from edgellm.cli.tool_option import function_of
from edgellm.errors import EdgeLLMError, UnknownModel, UsageError

if TYPE_CHECKING:
    from edgellm.sdk.client import EdgeLLM
    from edgellm.types.drift import Drift
    from edgellm.types.grammar import Grammar

INTERRUPTED = 130
FENCE = '"""'
LEAVING = ("/bye", "/quit", "/exit", "quit", "exit")  # as shells have the last two
HELP = {
    "/help": "this text",
    "/reset": "forget the conversation",
    "/explain": "what runs here and why",
    "/set": "as /set temperature 0.2: how answers are drawn from now on; without the number, as before",
    "/stats": "tokens and speed of the last answer",
    "/bye": "leave, as Ctrl-D, quit and exit do",
    "": 'Ctrl-C stops an answer. Text between two lines of """ is one message.',
}


@click.command(
    epilog=examples(
        'edgellm run auto "Why is the sky blue?"',
        'edgellm run qwen3-4b "Why is the sky blue?"',
        "edgellm run --task code < question.txt",
        'edgellm run qwen3-4b "Summarise this text:" < letter.txt',
        "edgellm run ./model.gguf",
        "edgellm run --schema order.json < letter.txt",
    )
)
@launches_to_chat
@click.argument("prompt", required=False)
@click.option("--raw", is_flag=True, help="Continue the text as it stands, without a chat template.")
@click.option("--system", metavar="TEXT", help="Instructions that stand before the conversation.")
@samples
@click.option(
    "--max-tokens",
    type=int,
    metavar="N",
    help="Most tokens in the answer; without it, as many as the context holds. Ctrl-C ends an answer, too.",
)
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated.")
@click.option(
    "--schema",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Answer with JSON that is valid under the JSON schema in this file.",
)
@click.option(
    "--tool",
    "tools",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="A Python function that the model may call (repeat).",
)
def command(
    *,
    model: str | None,
    prompt: str | None,
    raw: bool,
    system: str | None,
    max_tokens: int | None,
    stop: tuple[str, ...],
    schema: Path | None,
    tools: tuple[str, ...],
    isolate: bool,
    **rest: Any,
) -> int:
    """Chat with a model in the terminal.

    With PROMPT, with text on standard input, or with both, it answers once. MODEL is a catalog id, a path of a model
    file, or "echo"; "auto", or none, chooses the best model that this machine runs well.
    """
    from edgellm.app.adapters import answering_with_all
    from edgellm.contract.child import ended_with_us
    from edgellm.types.request import GenerationRequest

    if raw and (system is not None or tools):
        rival = "--tool" if tools else "--system"
        raise UsageError(f"--raw has no place for {rival}", hint="write it into the text, or leave out --raw")
    if schema is not None and tools:
        raise UsageError("--schema and --tool both say what answers look like", hint="give one of them", param="schema")
    for name, text in (("--system", system or ""), *(("--stop", text) for text in stop)):
        _require_text(name, text)
    grammar = None if schema is None else _grammar(schema)
    functions = [function_of(name) for name in tools]
    options = launch_options(**rest)
    # What no answer can have is refused before a model is fetched.
    GenerationRequest("", max_tokens=max_tokens, stop=stop)
    question = _question(prompt)
    try:
        with ended_with_us():
            plan, decision = make_plan(model, options, to_chat=True)
    except UnknownModel as error:
        raise _as_prompt(error, model, prompt) from None
    from edgellm.sdk.client import EdgeLLM

    plan = answering_with_all(plan)
    say_taken(plan, decision)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if question is None:
        say_lines(headline(plan), err=True)
    with EdgeLLM(plan, decision=decision, isolate=isolate) as llm:
        with waiting(f"loading {plan.artifact.name} {plan.artifact.quant}"):
            talk = Talk(llm, raw=raw, system=system, schema=grammar, tools=functions, max_tokens=max_tokens, stop=stop)
        if options.thinking and (why := thoughtless(llm)):
            say(why, err=True)
        if question is not None:
            if max_tokens is None and columns() and columns(err=True):  # a small model may repeat itself for minutes
                say("Ctrl-C ends the answer.", err=True, dim=True)
            return 0 if talk.say(question) else INTERRUPTED
        _converse(talk)
    return 0


def _as_prompt(error: UnknownModel, model: str | None, prompt: str | None) -> UnknownModel:
    """The same error, where a question was written in the place of the model: no model's name has blanks."""
    if model is None:
        return error
    if not re.search(r"\s", model.strip()):
        if prompt is None and model.isalpha():  # a question of one word, perhaps
            behind = f'the first argument is the model, and a question comes behind it: edgellm run MODEL "{model}"'
            error.hint = "; ".join(filter(None, (error.hint, behind)))
        return error
    return UnknownModel(
        f"the first argument is the model, and none is called {model[:60]!r}",
        hint='let one be chosen: edgellm run auto "Why is the sky blue?"; or name one of `edgellm models`',
    )


def _grammar(schema: Path) -> Grammar:
    from edgellm.files import read_named, utf8_text
    from edgellm.types.grammar import MAX_GRAMMAR_BYTES, Grammar

    try:
        text = utf8_text(read_named(schema, MAX_GRAMMAR_BYTES + 1))
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        hint = "give a file with a JSON schema"
        raise UsageError(f"{schema} cannot be read: {why}", hint=hint, param="schema") from None
    return Grammar("json_schema", text, "schema")


def _question(prompt: str | None) -> str | None:
    """What to answer once: PROMPT, and below it the text on standard input; None on a terminal without PROMPT, where a
    conversation begins.

    Raises:
        UsageError: both are empty, which a model would answer and not soon stop. Or one is not text, or has no end.
    """
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if prompt is None and on_terminal:
        return None
    _require_text("PROMPT", prompt or "")
    piped = "" if on_terminal else _piped()
    _require_text("standard input", piped)
    parts = [text for text in (prompt or "", piped) if text.strip()]
    if not parts:
        where = "PROMPT is empty" if prompt is not None else "there is no PROMPT, and standard input is empty"
        raise UsageError(
            f"there is nothing to answer: {where}",
            hint='ask something: edgellm run MODEL "Why is the sky blue?"',
            param="prompt",
        )
    return "\n\n".join(parts)


def _require_text(name: str, text: str) -> None:
    """Bytes that are no UTF-8 come as surrogates, which no model reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _no_text(name) from None


def _no_text(name: str) -> UsageError:
    hint = "convert it, as with `iconv -f LATIN1 -t UTF-8 FILE`; a picture or an archive is not read"
    return UsageError(f"{name} is not UTF-8 text", hint=hint, param="prompt")


def _piped() -> str:
    if sys.stdin is None:
        return ""
    from edgellm.types.request import MAX_REQUEST_BYTES

    try:
        text = sys.stdin.read(MAX_REQUEST_BYTES + 1)
    except UnicodeDecodeError:
        raise _no_text("standard input") from None
    except OSError:  # nothing is behind it: as if it were closed
        return ""
    if len(text) > MAX_REQUEST_BYTES:
        raise UsageError(f"standard input has over {MAX_REQUEST_BYTES} bytes", hint="send less text", param="prompt")
    return text


def _converse(talk: Talk) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() editing and history

    click.echo("Ask something; /help for commands, Ctrl-D to leave.", err=True)
    while (text := _read()) is not None and text.strip() not in LEAVING:
        try:
            if text.startswith("/"):
                _obey(text.strip(), talk)
            elif text.strip() and not talk.say(text):
                click.echo("(stopped)", err=True)
        except EdgeLLMError as error:
            # The model is there for the next question.
            say_error(error)


def _read() -> str | None:
    """One message; None where the user leaves."""
    while True:
        try:
            text = input(">>> ")
            if not text.startswith(FENCE):
                return text
            lines = [text.removeprefix(FENCE)]
            while not lines[-1].endswith(FENCE):
                lines.append(input("... "))
            return "\n".join(lines).removesuffix(FENCE).strip("\n")
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D leaves)", err=True)
        except EOFError:
            click.echo()
            return None


def _obey(text: str, talk: Talk) -> None:
    from edgellm import explain

    match text.split():
        case ["/set", *what] if len(what) < 3:
            if what:
                talk.draw_by(*what)
            say(explain.sentence(talk.sampling))
            return
    match text:
        case "/help":
            _say_help()
        case "/reset":
            talk.reset()
            click.echo("Forgotten.")
        case "/explain":
            for line in talk.llm.explain().split("\n"):
                say(line)
        case "/stats":
            click.echo(_stats(talk))
            say(explain.sentence(talk.sampling))
            for line in _drifts(talk.llm):
                say(line)
        case _:
            name, *more = text.split(maxsplit=1)
            takes = "a name and a number" if name == "/set" else "nothing"
            say(f"{name} takes {takes} behind it." if more and name in HELP else f"{name} is not a command.")
            _say_help()


def _say_help() -> None:
    for command_name, meaning in HELP.items():
        say(meaning, lead=f"{command_name:<10}" if command_name else "")


def _stats(talk: Talk) -> str:
    if talk.last is None:
        return (
            "The last answer was stopped before it could be measured." if talk.was_cut else "Nothing was answered yet."
        )
    usage, timings = talk.last.usage, talk.last.timings
    rate = timings.decode_tok_s(usage.completion_tokens)
    return (
        f"prompt: {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached, in {timings.prefill_s:.2f} s\n"
        f"answer: {usage.completion_tokens} tokens in {timings.decode_s:.2f} s, {rate:.1f} tok/s"
    )


def _drifts(llm: EdgeLLM) -> list[str]:
    """What was measured of this load and differs from its prediction."""
    from edgellm import explain
    from edgellm.types.reason import ProcessorsBusy
    from edgellm.units import show_rate

    least = [fact.least_tok_s for fact in llm.plan.reasons if isinstance(fact, ProcessorsBusy)]

    def remedy(drift: Drift) -> str:
        if drift.quantity == "decode" and least and least[0] <= drift.measured < drift.predicted:
            return f"beside the programs that were busy at the start it may be as slow as {show_rate(least[0])} tok/s"
        return explain.drift_remedy(drift)

    return [f"{explain.drift(drift)}; {remedy(drift)}" for drift in llm.verification.drifts]
