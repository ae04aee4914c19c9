"""`edgellm quantize`: a GGUF model in another quantization, made here by llama.cpp's own quantizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say_json, say_lines
from edgellm.cli.words import MODEL, QUANT
from edgellm.units import show_size

if TYPE_CHECKING:
    from edgellm.app.quantize.make import Made
    from edgellm.app.quantize.plan import Plan
    from edgellm.types.plan import Decision

SCHEMA = 1


@click.command(
    epilog=examples(
        "edgellm quantize qwen3-4b --to auto",
        "edgellm quantize model-f16.gguf --to Q5_K_M --output model-q5.gguf",
    )
)
@click.argument("model", type=MODEL)
@click.option(
    "--to",
    required=True,
    type=QUANT,
    metavar="NAME|auto",
    help="Quantization to make, as Q5_K_M; auto: what fits here.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write, not the store's.")
@click.option("--imatrix", default="", metavar="FILE", help="Importance matrix (GGUF), as llama-imatrix makes it.")
@click.option("--threads", type=int, metavar="N", help="Threads to compute with, instead of what fits here.")
@click.option("--allow-requantize", is_flag=True, help="Quantize tensors again that are quantized already, at a loss.")
@click.option("--force", is_flag=True, help="Let it replace a file.")
@click.option("--dry-run", is_flag=True, help="Say what would come of it, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(
    *,
    model: str,
    to: str,
    output: Path | None,
    imatrix: str,
    threads: int | None,
    allow_requantize: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make another quantization of a GGUF model."""
    from edgellm.app.quantize.make import make
    from edgellm.app.quantize.plan import Plan, plan
    from edgellm.cli.progress import progress, progress_line
    from edgellm.contract.child import ended_with_us

    with progress() as fetching:
        planned = plan(
            model, to, output=output, imatrix=imatrix, threads=threads, allow_requantize=allow_requantize,
            force=force, progress=fetching,
        )  # fmt: skip
    if not isinstance(planned, Plan):
        _nothing_to_do(planned, as_json)
        return
    if not as_json:
        _tell(planned)
    result = None
    if not dry_run:
        with ended_with_us(), progress_line(f"quantizing to {planned.quant}") as report:
            result = make(planned, report)
    if as_json:
        say_json(_answer(planned, result))
    elif result is not None:
        _done(planned, result)


def _nothing_to_do(decision: Decision, as_json: bool) -> None:
    from edgellm import explain

    assert decision.choice is not None
    if as_json:
        say_json({"schema": SCHEMA, "quant": decision.choice.quant, "made": None})
    else:
        say_lines(f"{decision.choice.model} {decision.choice.quant} is what this machine wants: nothing to make.")
        for reason in decision.reasons:
            say_lines(f"  {explain.sentence(reason)}")


def _tell(planned: Plan) -> None:
    from edgellm import explain

    source, n = planned.source.artifact, len(planned.file.tensors)
    changed = sum(p.changes for p in planned.file.tensors)
    say_lines(
        f"{planned.source.card.id}: {source.quant or source.path} to {planned.quant}, {changed} of {n} tensors change"
    )
    say_lines(f"  {show_size(source.bytes)} become {show_size(planned.file_bytes)} (predicted)")
    for note in planned.notes:
        say_lines(f"  {explain.sentence(note)}")


def _done(planned: Plan, result: Made) -> None:
    say_lines(f"Wrote {result.path}, {show_size(result.bytes)}, in {result.seconds:.0f} s")
    n_bytes, file = f"{result.tensor_bytes:,} bytes of tensors", planned.file
    if file.like:
        say_lines(f"  it has {n_bytes}; {file.tensor_bytes:,} were predicted, by {file.like}")
    else:
        say_lines(f"  its {n_bytes} are what was predicted")
    say_lines(f"  run it: edgellm run {result.name or result.path}")


def _answer(planned: Plan, result: Made | None) -> dict[str, Any]:
    from edgellm import explain

    answer: dict[str, Any] = {
        "schema": SCHEMA,
        "model": planned.source.card.id,
        "source": planned.source.artifact.path,
        "from_quant": planned.source.artifact.quant,
        "quant": planned.quant,
        "backend": planned.backend,
        "predicted": {"tensor_bytes": planned.file.tensor_bytes, "file_bytes": planned.file_bytes},
        "notes": list(map(explain.sentence, planned.notes)),
        "notes_facts": list(map(explain.facts, planned.notes)),
        "made": None,
    }
    if result is not None:
        answer["made"] = {
            "path": str(result.path),
            "name": result.name or None,
            "file_bytes": result.bytes,
            "tensor_bytes": result.tensor_bytes,
            "seconds": round(result.seconds, 1),
        }
    return answer
