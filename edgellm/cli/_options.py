"""What commands share: the flags that choose a model, and the making of a plan from them, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgellm import settings
from edgellm.cli import unfinished
from edgellm.cli.collector import look_as_usual
from edgellm.cli.download import Question, max_download, yes
from edgellm.cli.page import say
from edgellm.cli.progress import progress
from edgellm.cli.words import BACKEND, KV, MODEL, PROFILE, QUANT, TASK, TOKENS, WRITING_TASK, Words
from edgellm.errors import UsageError
from edgellm.files import expanded
from edgellm.units import counted, parse_rate

if TYPE_CHECKING:
    from edgellm.types.options import LaunchOptions
    from edgellm.types.plan import Decision, LaunchPlan

F = TypeVar("F", bound=Callable[..., Any])
AUTO = "auto"  # in place of a model

gpu_layers = click.option(
    "--gpu-layers",
    default="auto",
    show_default=True,
    metavar="N|all|auto",
    help="Layers to put on a GPU: a number, all, or as many as fit.",
)


def _only_on(ctx: click.Context, param: click.Parameter, names: Sequence[str]) -> None:
    """While the command runs, these are the GPUs that are seen."""
    if names:
        ctx.with_resource(settings.override(devices=tuple(names)))


device = click.option(
    "--device",
    multiple=True,
    metavar="NAME",
    expose_value=False,
    callback=_only_on,
    help="GPU to use, as `edgellm doctor` names it, instead of all (repeat).",
)


kv = click.option(
    "--kv",
    default="auto",
    show_default=True,
    type=KV,
    help="Type of the cache; auto is f16, and smaller only where that buys something.",
)


slots = click.option(
    "--slots",
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Conversations at the same time; more wait. auto: what memory and speed allow, up to 4.",
)


threads = click.option(
    "--threads", type=int, metavar="N", help="Threads to compute with, instead of what fits the machine."
)


think = click.option(
    "--think/--no-think",
    "thinking",
    default=False,
    help="Models that can think before they answer do: slower, and better.",
)


def _look_in(ctx: click.Context, param: click.Parameter, folders: Sequence[Path]) -> None:
    """Adds folders to those of EDGELLM_MODELS_DIR while the command runs."""
    if folders:
        from edgellm.store import local

        own = tuple(expanded(folder) for folder in folders)
        local.check_folders(own)
        ctx.with_resource(settings.override(models_dirs=(*own, *settings.current().models_dirs)))


models_dir = click.option(
    "--models-dir",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    expose_value=False,
    callback=_look_in,
    help="Folder with GGUF files of your own, to choose from here (repeat).",
)


models_file = click.option(
    "--models-file", type=click.Path(path_type=Path), metavar="FILE", help="Catalog rows of your own."
)


def profile(what: str) -> Callable[[F], F]:
    """`--profile`, for `what` is done with it."""
    return click.option(
        "--profile", type=PROFILE, metavar="NAME|FILE", help=f"{what}: a profile's name, or a TOML file."
    )


def _hold_to(ctx: click.Context, param: click.Parameter, rate: str | None) -> None:
    if rate is not None:
        parse_rate(rate)
        ctx.with_resource(settings.override(max_rate=rate))


def _stay_offline(ctx: click.Context, param: click.Parameter, offline: bool) -> bool:
    """While the command runs, sources make no requests and only look on this disk."""
    if offline:
        ctx.with_resource(settings.override(offline=True))
    return offline


max_rate = click.option(
    "--max-rate",
    metavar="RATE",
    expose_value=False,
    callback=_hold_to,
    help="Most bytes a second that a download takes, as 2MB/s.",
)


_CHOOSING = (
    click.option("--ctx", type=TOKENS, metavar="TOKENS", help="Context per slot that it must hold, as 8192 or 32k."),
    click.option("--min-tps", type=float, metavar="RATE", help="Slowest acceptable rate, tokens per second."),
    click.option("--max-memory", metavar="SIZE", help="Most memory it may take, as 700MiB or 2GiB."),
    click.option("--backend", type=BACKEND, help="Only this backend."),
    think,
    max_download,
    max_rate,
    yes,
    click.option("--quant", type=QUANT, metavar="NAME", help="The quantization of MODEL, such as Q4_K_M."),
    gpu_layers,
    device,
    kv,
    models_dir,
)
_LAUNCHING = (
    click.option("--offline", is_flag=True, callback=_stay_offline, help="Only what is on this disk already."),
    threads,
    click.option(
        "--option", "options", multiple=True, metavar="NAME=VALUE", help="A setting of the backend's own (repeat)."
    ),
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="[NAME=]FILE",
        help="A LoRA adapter of the model, in GGUF, or the name of a stored one (repeat).",
    ),
    click.option("--isolate/--no-isolate", default=True, help="Run native code in a process of its own (default)."),
)


_SAMPLING = (
    click.option("--temperature", type=float, metavar="T", help="0 = always the most likely token."),
    click.option(
        "--top-p", type=float, metavar="P", help="Keep the most likely tokens that weigh P together; 1 = all."
    ),
    click.option("--top-k", type=int, metavar="K", help="Keep the K most likely tokens; 0 = all."),
    click.option("--min-p", type=float, metavar="P", help="Keep tokens at least P times as likely as the likeliest."),
    click.option(
        "--repetition-penalty", type=float, metavar="X", help="Make tokens that were there unlikelier; 1 = off."
    ),
    click.option(
        "--presence-penalty", type=float, metavar="X", help="The same by a fixed amount, for tokens of the answer."
    ),
    click.option("--seed", type=int, metavar="N", help="Draw the same tokens every time."),
)


def samples(command: F) -> F:
    """The flags of `launch_options` for what requests leave open; otherwise the model's own values count."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def _named(_context: click.Context, _param: click.Parameter, model: str | None) -> str | None:
    return None if model == AUTO else model


def chooses(command: F, tasks: Words = TASK) -> F:
    """The flags of `launch_options` that choose a model and its file, and the argument MODEL."""
    task = click.option("--task", default="chat", show_default=True, type=tasks, help="What the model is for.")
    model = click.argument("model", required=False, type=MODEL, callback=_named)
    for option in reversed((model, task, *_CHOOSING)):
        command = option(command)
    return command


def launches(command: F, tasks: Words = TASK) -> F:
    """All flags of `launch_options`, and the argument MODEL."""
    for option in reversed(_LAUNCHING):
        command = option(command)
    return chooses(command, tasks)


def launches_to_chat(command: F) -> F:
    """The same, and the tasks of models that write are named."""
    return launches(command, WRITING_TASK)


def make_plan(
    model: str | None, options: LaunchOptions, *, to_chat: bool = False, tell: Callable[[str], None] | None = None
) -> tuple[LaunchPlan, Decision | None]:
    """Choose (or take what was named), and fetch what is missing, with progress on standard error.

    Args:
        to_chat: what only turns texts into vectors is refused before it is fetched.
        tell: gets the progress as lines instead.

    Raises:
        UsageError, NothingFits, SourceError, ArtifactError, BackendError.
    """
    import logging

    from edgellm.app import asked, launch

    # Where the command has not said how (`serve`), warnings are told as they are.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if model is None and options.quant is not None:
        raise UsageError(
            "--quant belongs to a model", hint=f"name it: edgellm serve MODEL --quant {options.quant}", param="quant"
        )
    if to_chat and options.task == "embed":
        asked.refuse_chat(model)
    shown = progress("choosing a model" if model is None else f"looking for {model}", tell=tell)
    with unfinished.telling_what_is_kept(), shown as report:
        approve = Question(report, tell)
        launch_plan, decision = launch.plan(model, options, to_chat=to_chat, progress=report, approve=approve)
    look_as_usual()
    return launch_plan, decision


def launch_options(*, options: Sequence[str] = (), **flags: Any) -> LaunchOptions:
    """The flags of `launches` and `samples`, as one object."""
    from edgellm.types.options import LaunchOptions
    from edgellm.types.sampling import Sampling

    sampling = Sampling(**{name: flags.pop(name) for name in Sampling.__struct_fields__ if name in flags})
    return LaunchOptions(options=_pairs(options), sampling=sampling, **flags)


def _pairs(options: Sequence[str]) -> dict[str, str]:
    wrong = [text for text in options if "=" not in text]
    if wrong:
        raise UsageError(f"--option {wrong[0]} is not NAME=VALUE", hint="as in --option head=q8", param="option")
    return dict(text.split("=", 1) for text in options)


def say_taken(plan: LaunchPlan, decision: Decision | None = None, *, to_run: bool = True) -> None:
    """Tell that rules were not asked, that a model was taken for a name that none has, or for a better one that cannot
    be had now, and, where it runs, that other programs slow it down, and that a GPU is left unused. Of a choice, too,
    that what was calibrated did not count."""
    from edgellm import explain
    from edgellm.types.backend_reason import GpuWouldGive, RatesSetAside
    from edgellm.types.model_reason import NameTaken
    from edgellm.types.reason import ProcessorsBusy, RulesUnasked

    kinds = NameTaken | RulesUnasked
    if to_run:
        kinds |= ProcessorsBusy | GpuWouldGive
    if decision is not None:
        kinds |= RatesSetAside
    for reason in plan.reasons:
        if isinstance(reason, kinds):
            say(explain.sentence(reason), err=True)
    if to_run and decision is None:
        for text in short_contexts(plan):
            say(text, err=True)
    if decision is not None and (why := explain.second_best(decision)):
        say(why, err=True)


def say_unasked() -> None:
    """Tell of plugins whose rules were not asked, once all were, where no plan is shown that does."""
    from edgellm import explain
    from edgellm.app.context import rules_unasked

    for reason in rules_unasked():
        say(explain.sentence(reason), err=True)


def short_contexts(plan: LaunchPlan) -> list[str]:
    """What whoever named the model should hear of a context that is much shorter than it could be."""
    from edgellm import explain
    from edgellm.types.reason import ContextLength

    lengths = [reason for reason in plan.reasons if isinstance(reason, ContextLength)]
    return [explain.short_context(length) for length in lengths if length.is_much_shorter]


def headline(plan: LaunchPlan) -> str:
    """What runs, in one line."""
    run = plan.settings
    name = " ".join(filter(None, (plan.served_as, plan.artifact.quant)))
    slots = f", {run.n_slots} at the same time" if run.n_slots > 1 else ""
    layers = {0: "", -1: ", all layers on the GPU"}.get(
        run.gpu_layers, f", {counted(run.gpu_layers, 'layer')} on the GPU"
    )
    threads = counted(run.n_threads, "thread")
    return f"{name} on {plan.backend}: {run.n_ctx:,} tokens of context{slots}, {threads}{layers}"
