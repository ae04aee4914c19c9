"""`edgellm adapters`: LoRA adapters on this disk, brought from other tools, written for them, merged into models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli import tune_jobs
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import ADAPTER, MODEL, QUANT, STORED_ADAPTER, WholeNumber
from edgellm.units import show_moment, show_size

if TYPE_CHECKING:
    from edgellm.formats.gguf.adapter import Adapter
    from edgellm.store.adapters import AdapterRecord, StoredAdapter

SCHEMA = 1

as_json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
force_flag = click.option("--force", is_flag=True, help="Replace what has that name.")
base_option = click.option("--base", default="", type=MODEL, metavar="MODEL", help="The model that it is for.")


@click.group(
    name="adapters",
    epilog=examples(
        "edgellm adapters list",
        "edgellm adapters import ./mail-lora --base smollm2-135m-instruct --name mail",
        "edgellm adapters export smollm2-135m-instruct:mail --output mail.gguf",
        "edgellm adapters merge smollm2-135m-instruct:mail --output mail-Q4_K_M.gguf --to Q4_K_M",
    ),
)
def command() -> None:
    """List, bring, export, merge and remove LoRA adapters."""


command.add_command(tune_jobs.command)


@command.command("list", epilog=examples("edgellm adapters list", "edgellm adapters list --json"))
@as_json_flag
def list_adapters(*, as_json: bool) -> None:
    """List the adapters on this disk."""
    from edgellm import explain
    from edgellm.store.adapters import AdapterStore

    installed = AdapterStore().checked(again=False)
    if as_json:
        say_json({"schema": SCHEMA, "adapters": list(map(_stored_row, installed))})
        return
    for stored in installed:
        record = stored.record
        what = _what(record) if record else "not readable"
        problem = explain.stored(stored.problem)
        say(f"{stored.label}  {what}{f'  {problem}' if problem else ''}")
        say(str(stored.folder), lead="    ")
    if not installed:
        say("No adapter is here. `edgellm adapters import` brings a GGUF file or a folder of peft.")


@command.command(
    "show", epilog=examples("edgellm adapters show smollm2-135m-instruct:mail", "edgellm adapters show x.gguf")
)
@click.argument("adapter", type=ADAPTER)
@as_json_flag
def show_adapter(*, adapter: str, as_json: bool) -> None:
    """Show what an adapter is: rank, matrices, and the model that it is for.

    ADAPTER is MODEL:NAME of `edgellm adapters list`, or a GGUF file.
    """
    from edgellm import explain
    from edgellm.app import stored_adapters
    from edgellm.formats.gguf import adapter as gguf_adapter
    from edgellm.store.adapters import StoredAdapter

    place = stored_adapters.locate(adapter)
    stored = place if isinstance(place, StoredAdapter) else None
    path = place.path if isinstance(place, StoredAdapter) else place
    unread = stored is not None and (stored.problem is not None or stored.is_merged)
    content = None if unread else gguf_adapter.read(path)
    if as_json:
        row = (_stored_row(stored) if stored else {}) | (_content_row(content) if content else {})
        say_json({"schema": SCHEMA, "path": str(path), **row})
        return
    say(stored.label if stored else str(path), bold=True)
    for label, text in _lines(stored, content):
        say(text, lead=f"  {label:<14}")
    if stored is not None and stored.problem is not None:
        say(explain.stored(stored.problem), lead=f"  {'problem':<14}")


@command.command(
    "import",
    epilog=examples(
        "edgellm adapters import mail.gguf --base smollm2-135m-instruct:Q4_1",
        "edgellm adapters import ./mail-lora --base ./model.gguf --name mail",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--base", required=True, type=MODEL, metavar="MODEL", help="The model that it was tuned on.")
@click.option("--name", default="", metavar="NAME", help="What it is called here; unset = as its file or folder.")
@force_flag
@as_json_flag
def import_adapter(*, path: Path, base: str, name: str, force: bool, as_json: bool) -> None:
    """Store an adapter that another tool made.

    PATH is a GGUF file as llama.cpp reads it, or a folder that peft wrote.
    """
    from edgellm.app import stored_adapters
    from edgellm.cli.progress import progress

    with progress() as fetching:
        stored = stored_adapters.bring(path, base, name, force=force, progress=fetching)
    record = stored.sound()
    if as_json:
        say_json({"schema": SCHEMA, **_stored_row(stored)})
        return
    model = f"{record.base_id}:{record.base_quant}"
    say(f"Stored {stored.label}: rank {record.rank}, {show_size(record.bytes)}, for {model}.")
    say(f"use it: edgellm run {stored.label}", lead="  ")


@command.command(
    "export",
    epilog=examples(
        "edgellm adapters export smollm2-135m-instruct:mail --output mail.gguf",
        "edgellm adapters export smollm2-135m-instruct:mail --output mail-lora --to peft",
        "edgellm adapters export ./mail-lora --base smollm2-135m-instruct --output mail.gguf --type F16",
    ),
)
@click.argument("adapter", type=ADAPTER)
@click.option(
    "--output", required=True, type=click.Path(path_type=Path), metavar="PATH", help="File or folder to write."
)
@click.option("--to", type=click.Choice(["gguf", "peft"]), help="Form; unset: gguf if PATH ends in .gguf, else peft.")
@click.option(
    "--type", "stored", default="", metavar="F32|F16|BF16", help="Type of a GGUF file's tensors; unset = exact."
)
@base_option
@force_flag
@as_json_flag
def export_adapter(
    *, adapter: str, output: Path, to: str | None, stored: str, base: str, force: bool, as_json: bool
) -> None:
    """Write an adapter for another tool: a GGUF file for llama.cpp, or a folder for peft.

    ADAPTER is MODEL:NAME of `edgellm adapters list`, a GGUF file or a folder that peft wrote.
    """
    from edgellm.app import stored_adapters
    from edgellm.cli.progress import progress

    with progress() as fetching:
        n_bytes = stored_adapters.export(
            adapter, output, form=to or "", stored=stored.upper(), model=base, force=force, progress=fetching
        )
    if as_json:
        say_json({"schema": SCHEMA, "path": str(output), "bytes": n_bytes})
        return
    say(f"Wrote {output}, {show_size(n_bytes)}.")


@command.command(
    "merge",
    epilog=examples(
        "edgellm adapters merge smollm2-135m-instruct:mail --output mail.gguf --to Q8_0",
        "edgellm adapters merge ./dora --base ./model-F16.gguf --output merged.gguf",
    ),
)
@click.argument("adapter", type=ADAPTER)
@base_option
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="GGUF file to write.")
@click.option("--to", default="F16", type=QUANT, metavar="NAME", help="Quantization to write (default: F16).")
@click.option("--scale", default=1.0, help="How much of the adapter is added (default: 1).")
@click.option("--imatrix", default="", metavar="FILE", help="Importance matrix (GGUF), as llama-imatrix makes it.")
@click.option("--threads", type=WholeNumber(1, 1024), metavar="N", help="Threads to quantize with.")
@force_flag
@as_json_flag
def merge_command(
    *,
    adapter: str,
    base: str,
    output: Path,
    to: str,
    scale: float,
    imatrix: str,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a model with the adapter in its matrices. The model's own file stays as it is.

    ADAPTER is MODEL:NAME of `edgellm adapters list`, a GGUF file or a folder that peft wrote.
    """
    from edgellm import explain
    from edgellm.app import stored_adapters
    from edgellm.app.merge_adapter import merge_adapter
    from edgellm.cli.progress import progress, progress_line
    from edgellm.contract.child import ended_with_us

    with progress() as fetching:
        loaded = stored_adapters.load(adapter, base, progress=fetching)
    with ended_with_us(), progress_line(f"merging to {to}") as report:
        merged = merge_adapter(
            loaded, output, to, scale=scale, imatrix=imatrix, threads=threads, force=force, progress=report
        )
    if as_json:
        notes = {
            "notes": list(map(explain.sentence, merged.notes)),
            "notes_facts": list(map(explain.facts, merged.notes)),
        }
        say_json({"schema": SCHEMA, "path": str(merged.path), "bytes": merged.bytes, "quant": merged.quant, **notes})
        return
    say(f"Wrote {merged.path}, {show_size(merged.bytes)}.")
    for note in merged.notes:
        say(explain.sentence(note), lead="  ")
    say(f"run it: edgellm run {merged.path}", lead="  ")


@command.command("rm", epilog=examples("edgellm adapters rm smollm2-135m-instruct:mail"))
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...", type=STORED_ADAPTER)
@as_json_flag
def remove_adapters(*, adapters: tuple[str, ...], as_json: bool) -> None:
    """Delete adapters from this disk.

    ADAPTER is MODEL:NAME of `edgellm adapters list`.
    """
    from edgellm.store.adapters import AdapterStore

    store = AdapterStore()
    # A wrong name is told before anything is deleted.
    chosen = list({s.folder: s for s in (store.find(*_split(text)) for text in adapters)}.values())
    freed = {stored.label: store.remove(stored) for stored in chosen}
    if as_json:
        say_json({"schema": SCHEMA, "removed": [{"adapter": name, "freed_bytes": n} for name, n in freed.items()]})
        return
    for name, n_bytes in freed.items():
        say(f"Removed {name}: {show_size(n_bytes)} are free.")


def _split(text: str) -> tuple[str, str]:
    base_id, _, name = text.rpartition(":")
    return base_id, name


def _what(record: AdapterRecord) -> str:
    if record.merged_quant:
        return f"a model in {record.merged_quant} by {record.method}, {show_size(record.bytes)}"
    return f"rank {record.rank}, {show_size(record.bytes)}, for {record.base_quant}"


def _stored_row(stored: StoredAdapter) -> dict[str, Any]:
    from edgellm import explain

    record = stored.record
    return {
        "adapter": stored.label,
        "base_id": stored.base_id,
        "name": stored.name,
        **(
            explain.fields(
                record, "base_quant", "base_sha256", "architecture", "rank", "alpha", "bytes", "sha256", "method",
                "source", "made_at", "figures", "merged_quant",
            )
            if record
            else {}
        ),
        "problem": explain.stored(stored.problem),
        "problem_facts": explain.facts(stored.problem),
        "folder": str(stored.folder),
    }  # fmt: skip


def _content_row(content: Adapter) -> dict[str, Any]:
    return {
        "architecture": content.architecture,
        "rank": content.rank,
        "alpha": content.alpha or None,
        "bytes": content.header.file_bytes,
        "tensor_bytes": content.tensor_bytes,
        "sha256": content.sha256,
        "invocation_tokens": list(content.invocation_tokens),
        "matrices": [{"name": pair.name, "rank": pair.rank, "scale": content.scale(pair)} for pair in content.pairs],
    }


def _lines(stored: StoredAdapter | None, content: Adapter | None) -> list[tuple[str, str]]:
    from edgellm.explain.tuning import figure_rows

    lines: list[tuple[str, str]] = []
    record = stored.record if stored else None
    if record is not None:
        lines.append(("model", f"{record.base_id} {record.base_quant}, sha256 {record.base_sha256[:16]}"))
        lines += [("method", record.method)] if record.method else []
        lines += [("from", f"{record.source}, {show_moment(record.made_at)}")]
        if record.merged_quant:
            lines.append(("what", f"{_what(record)}, and no adapter"))
        lines += figure_rows(record.figures, record.against)
    if content is not None:
        alpha = f"{content.alpha:g}" if content.alpha else "none"
        ranks = sorted({pair.rank for pair in content.pairs})
        lines.append(("architecture", content.architecture))
        lines.append(("rank", f"{', '.join(map(str, ranks))}; alpha {alpha}"))
        roles = sorted({pair.name.removesuffix(".weight").rpartition(".")[2] for pair in content.pairs})
        lines.append(("changes", f"{len(content.pairs)} matrices: {', '.join(roles)}"))
        if content.invocation_tokens:
            lines.append(("acts from", f"the tokens {', '.join(map(str, content.invocation_tokens))} on"))
        lines.append(("file", f"{content.header.where}, {show_size(content.header.file_bytes)}"))
    return lines
