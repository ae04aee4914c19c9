"""`edgellm quants`: what every quantization name means, and what this processor does with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgellm.estimate.isa import IsaClass
    from edgellm.estimate.quants import Quant

SCHEMA = 1
PRIOR = "what is known of processors of its class, not a measurement of this one"


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(*, name: str | None, as_json: bool) -> None:
    """Explain quantization names and what this CPU does with them."""
    from edgellm.estimate import isa, quants
    from edgellm.hardware.probe import probe
    from edgellm.plugins import plugins

    plugins().call("register_quants", register=quants.register)
    chosen = [quants.find(name)] if name else list(quants.QUANTS.values())
    machine = probe(measure=False)
    here = isa.isa_class(machine.cpu, machine.os)
    if as_json:
        rows = [_row(quant, here) for quant in chosen]
        head = {"schema": SCHEMA, "cpu": machine.cpu.model, "class": here.name, "basis": f"prior: {PRIOR}"}
        click.echo(json.dumps({**head, "quants": rows}, indent=2))
    elif name:
        _show_one(chosen[0], machine.cpu.model, here)
    else:
        _show_all(chosen, machine.cpu.model, here)


def _row(quant: Quant, here: IsaClass) -> dict[str, Any]:
    return {
        "name": quant.name,
        "kind": quant.kind,
        "bits": quant.bits,
        "base_type": quant.base,
        "meaning": quant.meaning,
        "best_for": quant.best_for,
        "kept": {size: round(kept, 3) for size, kept in _kept(quant)},
        "decode_relative_to_q4_k": round(relative(quant, here), 2),
        "here": quant.on(here),
    }


def relative(quant: Quant, here: IsaClass) -> float:
    """Weights that this class unpacks per second, as a multiple of Q4_K's."""
    return here.decode_gw_s(quant.base) / here.decode_gw_s("Q4_K")


def _kept(quant: Quant) -> list[tuple[str, float]]:
    """Share of ability kept at three sizes, by the table for models that were not trained in the type."""
    from edgellm.estimate.quality import retention

    return [(size, retention(quant.name, params).mid) for size, params in _SIZES]


TRAINED = ("ternary", "low-bit native")
_SIZES = (("1B", 10**9), ("8B", 8 * 10**9), ("70B", 70 * 10**9))


def _show_one(quant: Quant, cpu: str, here: IsaClass) -> None:
    kept = ", ".join(f"{share:.1%} at {size}" for size, share in _kept(quant))
    native = " if it was not trained in it, all of it otherwise" if quant.kind in TRAINED else ""
    lines = (
        f"{quant.name}: {quant.meaning}",
        f"  kind       {quant.kind}; most weights are stored as {quant.base}",
        f"  bits       {quant.bits:g} a weight on an 8B llama: {quant.bits:.3g} GB",
        f"  keeps      {kept} of a model's ability{native}",
        f"  best for   {quant.best_for}",
        f"  this CPU   {cpu}: {quant.on(here)}",
        f"             ({here.name}: {PRIOR})",
    )
    click.echo("\n".join(lines))


def _show_all(chosen: list[Quant], cpu: str, here: IsaClass) -> None:
    width = max(len(quant.name) for quant in chosen)
    click.echo(f"{'name':<{width}}   bits  8B keeps  unpack  best for")
    for quant in chosen:
        kept = "trained" if quant.kind in TRAINED else f"{dict(_kept(quant))['8B']:.1%}"
        numbers = f"{quant.bits:5.2f}  {kept:>8}  {relative(quant, here):5.2f}x"
        click.echo(f"{quant.name:<{width}}  {numbers}  {quant.best_for}")
    click.echo(f"\nOn {cpu} ({here.name}); `edgellm quants NAME` explains one.")
    click.echo("bits      per weight of an 8B llama, its tables included")
    click.echo("8B keeps  of its ability; trained: for models trained in the type, which lose nothing, and no others")
    click.echo(f"unpack    weights per second while decoding, against Q4_K: {PRIOR}")
