"""Writes docs/sdk.md from the docstrings of the SDK. `make docs`; a test keeps the page equal to them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import edgellm
from edgellm import errors
from edgellm.adaptation.worker import TuneStop
from edgellm.sdk import tuning
from edgellm.sdk.client import EdgeLLM
from edgellm.types.event import Choice, Completion, Delta, Done, Prefill, Timings, Usage
from edgellm.types.grammar import Grammar
from edgellm.types.message import Message, NamedTool, TextInput, Tool, ToolCall
from edgellm.types.options import LaunchOptions, SelectionOptions
from edgellm.types.request import EmbeddingRequest, GenerationRequest, RerankRequest
from edgellm.types.sampling import Sampling
from edgellm.types.sampling_defaults import SamplingDefaults, SamplingPart
from edgellm.types.tool_use import ToolResult, ToolUse
from edgellm.types.tuning import TuneEvaluation, TuneFinished, TuneProgress, TuneSample, TuneSettings, TuneStarted
from edgellm.types.tuning_gate import Forgetting, Gate, OtherModel, PairedGain, ShuffledControl
from edgellm.types.tuning_options import Tuned, TuneOptions, TunePreview

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
HEAD = """# The Python SDK

This page is made of the docstrings: change those, then run `make docs`. Whole programs are in [examples](examples/),
and the [tutorial](tutorial.md#2-the-first-program) explains one.

```python
from edgellm import Delta, EdgeLLM

with EdgeLLM.auto() as llm:
    print(llm.chat("Say hello in French.", max_tokens=40).text)
    for event in llm.stream("Tell me more."):
        if isinstance(event, Delta):
            print(event.text, end="", flush=True)
```

`edgellm` itself exports `EdgeLLM`, `Message`, `Tool`, `TextInput`, `NamedTool`, `ToolCall`, `Grammar`, `Sampling`,
`Completion`, `Delta`, `Done`, `Prefill`, what [tunes](#tuning) and all [errors](#errors); what else there is names its
module. Everything is typed: an editor completes options and marks wrong ones. [A page of its
own](how-to/use-answers-in-programs.md) shows how answers become objects, and how a model calls functions.

Answers are [msgspec](https://jcristharif.com/msgspec/) structs. `msgspec.to_builtins(answer)` makes plain dictionaries
and lists of one, and `msgspec.json.encode(answer)` JSON. A web framework that does not know such structs gets the
former, and an error has the status that `edgellm serve` would answer with. Loading takes seconds, and waits where it is
called, as `close` does: an event loop goes on if that is in a thread (`async with` closes in one).

```python
@asynccontextmanager
async def lifespan(app: FastAPI):
    async with await asyncio.to_thread(EdgeLLM.load, "qwen3-4b") as app.state.llm:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: str) -> dict:
    try:
        return msgspec.to_builtins(await app.state.llm.achat(question, timeout=60))
    except EdgeLLMError as error:
        raise HTTPException(error.http_status, error.message) from error
```

## In a frozen app

Models and chat templates run in helper processes, also with `isolate=False`, and these run `python -m`. An app that
PyInstaller, cx_Freeze or Nuitka made, and a server that holds Python in its own program (uWSGI, mod_wsgi), is no Python
that could be started so: loading is refused there (`UsageError`) until `EDGELLM_PYTHON` names one, in which the same
version of edgellm and its plugins are installed. An app can bring it along, as a folder that `python -m venv --copies`
or [python-build-standalone](https://github.com/astral-sh/python-build-standalone) made:

```python
os.environ["EDGELLM_PYTHON"] = str(Path(sys.executable).parent / "python" / "bin" / "python3")
llm = EdgeLLM.load("qwen3-4b")
```

`pyinstaller app.py` needs no further flags: edgellm brings a hook that collects its tables, and the metadata and
modules of all plugins that are installed, and `edgellm-gguf` one for llama.cpp's libraries (tried with PyInstaller 6.22
on Linux, as a folder). Tell others by their own options to include the data files, all modules and the metadata of
`edgellm` and of each plugin: without metadata a plugin counts as not installed.
"""
GROUPS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("Options", (SelectionOptions, LaunchOptions)),
    (
        "Requests",
        (
            Message,
            ToolCall,
            Tool,
            TextInput,
            NamedTool,
            Sampling,
            SamplingDefaults,
            SamplingPart,
            Grammar,
            GenerationRequest,
            EmbeddingRequest,
            RerankRequest,
        ),
    ),
    ("Events", (Delta, Done, Prefill, Completion, Choice, Usage, Timings)),
    ("Tools", (ToolUse, ToolResult)),
    (
        "Tuning",
        (
            TuneOptions,
            TuneStop,
            TunePreview,
            Tuned,
            Gate,
            PairedGain,
            ShuffledControl,
            OtherModel,
            Forgetting,
            TuneStarted,
            TuneProgress,
            TuneEvaluation,
            TuneSample,
            TuneFinished,
            TuneSettings,
        ),
    ),
)
FUNCTIONS = {"Tuning": (tuning.tune, tuning.atune, tuning.plan_tuning)}
_GENERATOR = re.compile(r"(Async)?Generator\[((?:[^\[\],]|\[[^\]]*\])*)(?:, None)+\]")
LISTED = {kind for _, kinds in GROUPS for kind in kinds}


def page() -> str:
    parts = [HEAD, _class(EdgeLLM), *_methods(EdgeLLM)]
    for title, kinds in GROUPS:
        parts.append(f"## {title}\n")
        for function in FUNCTIONS.get(title, ()):
            heading = f"{function.__name__}{_signature(function)}{_returned(function)}"
            parts.append(f"### `{heading}`\n\n{_text(inspect.getdoc(function) or '')}")
        for kind in kinds:
            fields = [_fields(kind)] if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct) else []
            parts += [_class(kind, level=3), *fields, *_methods(kind, level=4)]
    return "\n".join([*parts, _errors()])


def _class(kind: type, *, level: int = 2) -> str:
    text = kind.__doc__ or ""
    # A dataclass or a struct without a docstring of its own has one that repeats its signature.
    written = "" if text.startswith(f"{kind.__name__}(") else inspect.cleandoc(text)
    home = "" if hasattr(edgellm, kind.__name__) else f"\nFrom `{kind.__module__}`.\n"
    return f"{'#' * level} `{kind.__name__}`\n{home}" + (f"\n{_text(written)}" if written else "")


def _methods(kind: type, *, level: int = 3) -> Iterator[str]:
    for name, member in _members(kind):
        target: Any = member.__func__ if isinstance(member, classmethod) else member
        function: Any = member.fget if isinstance(member, property) else target
        signature = f"{name}{_signature(target)}" if inspect.isfunction(target) else name
        signature += _returned(function)
        doc = inspect.getdoc(function)
        if doc:
            yield f"{'#' * level} `{signature}`\n\n{_text(doc)}"


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, those of the class first, then those of bases that the page does not list."""
    for owner in kind.__mro__:
        if not owner.__module__.startswith("edgellm.") or (owner is not kind and owner in LISTED):
            continue
        for name, member in vars(owner).items():
            kinds = (classmethod, property)
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
                yield name, member


def _signature(function: Any) -> str:
    """Names and defaults; types are in the text, and would make a heading of three lines."""
    signature = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name not in ("self", "cls")]
    short = [p.replace(default=_Shown(_default(p.default))) if p.default is not p.empty else p for p in plain]
    return str(signature.replace(parameters=short, return_annotation=signature.empty))


def _returned(function: Any) -> str:
    """` -> int`; of a method with overloads what each of them returns."""
    overloads = typing.get_overloads(function)
    types = dict.fromkeys(each.__annotations__["return"] for each in overloads or [function])
    shown = _GENERATOR.sub(r"\1Iterator[\2]", " | ".join(types))
    return "" if shown in ("None", "NoReturn") else f" -> {shown}"


class _Shown(str):
    """Text that a signature shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _fields(kind: type) -> str:
    comments = _comments(kind)
    rows = [
        f"| `{name}` | {_cell(type_)} | {default} | {comments.get(name, '')} |" for name, type_, default in _rows(kind)
    ]
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows, ""])


def _rows(kind: type) -> Iterator[tuple[str, str, str]]:
    own = vars(kind).get("__annotations__", {})
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.name in own:
                yield field.name, str(field.type), _value(field.default, field.default_factory, dataclasses.MISSING)
    else:
        for info in msgspec.structs.fields(kind):
            if info.name not in own:
                continue
            yield info.name, str(own[info.name]), _value(info.default, info.default_factory, msgspec.NODEFAULT)


def _value(default: object, factory: object, missing: object) -> str:
    if default is not missing:
        return f"`{_default(default)}`"
    return "required" if factory is missing else f"`{getattr(factory, '__name__', factory)}()`"


def _default(value: object) -> str:
    """As one would write it: `Sampling()`, a function's name, `"auto"`."""
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}()"
    if inspect.isfunction(value):
        return value.__name__
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _comments(kind: type) -> dict[str, str]:
    """Field -> the comment behind it in the source."""
    lines = re.findall(r"^    (\w+): [^#\n]*#\s*(.+?)(?:\s*#.*)?$", inspect.getsource(kind), re.MULTILINE)
    return {name: _cell(comment, code=False) for name, comment in lines}


def _cell(text: str, *, code: bool = True) -> str:
    text = text.replace("|", "\\|")
    return f"`{text}`" if code else text


def _text(doc: str) -> str:
    """A docstring as Markdown: arguments and attributes become a list, errors a sentence."""
    text, _, raised = doc.partition("Raises:\n")
    lines: list[str] = []
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Attributes):", line):
            lines += [line, ""]
        elif entry := re.fullmatch(r"    (\w+): (.+)", line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("        ") else line.strip())
    if raised:
        lines.append(f"Raises {' '.join(raised.split())}")
    return "\n".join(lines) + "\n"


def _errors() -> str:
    tree = re.search(r"^    EdgeLLMError.*?(?=\n\n)", errors.__doc__ or "", re.MULTILINE | re.DOTALL)
    assert tree, "the docstring of errors.py draws no tree"
    base, code = (_sentence(member) for member in (errors.EdgeLLMError, errors.EdgeLLMError.code))
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    rows = [
        f"- `{kind.__name__}`: {_sentence(kind)}"
        for kind in classes
        if kind.__doc__ and kind is not errors.EdgeLLMError
    ]
    return "\n".join((
        "## Errors\n",
        f"All can be imported from `edgellm`.\n\n```\n{inspect.cleandoc(tree[0])}\n```\n",
        f"`EdgeLLMError`: {base} "
        f"Attributes: `message`, `hint`, `exit_code` and `http_status` (above), and `code`. {code}\n",
        *rows,
        "",
    ))  # fmt: skip


def _sentence(member: object) -> str:
    return " ".join((inspect.getdoc(member) or "").split())


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
