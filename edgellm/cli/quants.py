"""`edgellm quants`: what every quantization name means, and what this processor does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import Column, entry, examples, say, say_json, table
from edgellm.cli.words import QUANT
from edgellm.units import counted, show_rate

if TYPE_CHECKING:
    from edgellm.estimate.isa import IsaClass
    from edgellm.estimate.quants import Quant
    from edgellm.types.calibration import Calibration
    from edgellm.types.machine import Machine

SCHEMA = 1
PRIOR = "what is known of processors of its class, not a measurement of this one"
NOT_MEASURED = "not measured: run `edgellm calibrate`"
SET_ASIDE = "does not count, see below"
# Models that stand for their size in the columns of tokens per second.
EXAMPLES = (("1B", "llama-3.2-1b-instruct"), ("8B", "llama-3.1-8b-instruct"))


@click.command(epilog=examples("edgellm quants", "edgellm quants Q4_K_M"))
@click.argument("name", required=False, type=QUANT)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/selection.md).")
def command(*, name: str | None, as_json: bool) -> None:
    """Explain quantization names and what this CPU does with them."""
    from edgellm import explain
    from edgellm.contract.manager import plugins
    from edgellm.estimate import isa, quants
    from edgellm.hardware.probe import probe
    from edgellm.selection.backend_facts import backend_facts
    from edgellm.selection.reasons import set_aside

    plugins().call("register_quants", register=quants.register)
    chosen = [quants.find(name)] if name else list(quants.QUANTS.values())
    machine = probe(measure=False)
    here = isa.isa_class(machine.cpu, machine.os)
    facts = backend_facts(plugins().backends().values(), machine)
    stored = [(backend.name, backend.calibration) for backend in facts if backend.calibration is not None]
    aside = [reason for backend in facts for reason in set_aside(backend, machine.compute_threads)]
    rates = {quant.name: _measured(quant, machine, stored) for quant in chosen}
    missing = SET_ASIDE if aside else NOT_MEASURED
    if as_json:
        rows = [_row(quant, here, rates[quant.name]) for quant in chosen]
        builds = [{"backend": name, "build": c.build, "date": c.date} for name, c in stored]
        head = {"schema": SCHEMA, "cpu": machine.cpu.model, "class": here.name, "basis": f"prior: {PRIOR}"}
        told = [explain.plain({"reason": reason}) for reason in aside]
        head |= {"threads": machine.compute_threads, "calibrations": builds, "set_aside": told}
        say_json({**head, "quants": rows})
    elif name:
        _show_one(chosen[0], machine.cpu.model, here, rates[chosen[0].name] or missing)
    else:
        _show_all(chosen, machine.cpu.model, here, rates)
        _show_builds(stored, machine.compute_threads, missing)
    if not as_json:
        for reason in aside:
            say(explain.sentence(reason))


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """What a quantization's main type was measured to do here, by the backend that does it fastest."""

    backend: str
    threads: int
    decode_gw_s: float  # 1e9 weights per second
    prefill_gw_s: float
    tok_s: dict[str, tuple[float, float]]  # example -> decode, prefill


def _measured(quant: Quant, machine: Machine, stored: list[tuple[str, Calibration]]) -> MeasuredSpeed | None:
    from edgellm.contract.manager import plugins
    from edgellm.types.calibration import nearest

    best = None
    for name, rates in stored:
        key = quant.base, nearest({threads for _, threads in rates.decode}, machine.compute_threads)
        names = plugins().backend(name).quants
        can = names is None or quant.name in names or (bool(quant.like[0]) and quant.like[0] in names)
        if can and key in rates.decode and key in rates.prefill:
            measured = MeasuredSpeed(
                name, key[1], rates.decode[key], rates.prefill[key], _tokens(quant, machine, rates)
            )
            best = measured if best is None or measured.decode_gw_s > best.decode_gw_s else best
    return best


def _tokens(quant: Quant, machine: Machine, rates: Calibration) -> dict[str, tuple[float, float]]:
    """Decode and prefill of the examples; empty for a type without a recipe."""
    from edgellm.catalog.lookup import catalog
    from edgellm.estimate import speed
    from edgellm.estimate.recipe import BASE_TYPE
    from edgellm.estimate.weights import weights

    mix = quant.like[0] if quant.kind == "dynamic" else quant.name
    rates_of = {}
    for size, model in EXAMPLES if mix in BASE_TYPE else ():
        card, threads = catalog()[model], machine.compute_threads
        if card.shape is not None:
            model_weights = weights(card.shape, card.params, card.params_active, mix)
            decode = speed.decode(machine, card.shape, model_weights, threads, rates=rates)
            rates_of[size] = decode.tok_s, speed.prefill(machine, card.shape, model_weights, threads, rates=rates).tok_s
    return rates_of


def _row(quant: Quant, here: IsaClass, measured: MeasuredSpeed | None) -> dict[str, Any]:
    return {
        "name": quant.name,
        "kind": quant.kind,
        "bits": quant.bits,
        "base_type": quant.base,
        "meaning": quant.meaning,
        "best_for": quant.best_for,
        "kept": {size: round(share, 3) for size, share in _kept(quant)},
        "decode_relative_to_q4_k": round(relative(quant, here), 2),
        "here": quant.on(here),
        "measured": None if measured is None else _measured_row(measured),
    }


def _measured_row(measured: MeasuredSpeed) -> dict[str, Any]:
    tokens = {size: {"decode": decode, "prefill": prefill} for size, (decode, prefill) in measured.tok_s.items()}
    return {
        "backend": measured.backend,
        "threads": measured.threads,
        "decode_gw_s": measured.decode_gw_s,
        "prefill_gw_s": measured.prefill_gw_s,
        "tok_s": tokens,
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


def _show_one(quant: Quant, cpu: str, here: IsaClass, measured: MeasuredSpeed | str) -> None:
    shares = ", ".join(f"{share:.1%} at {size}" for size, share in _kept(quant))
    native = " if it was not trained in it, all of it otherwise" if quant.kind in TRAINED else ""
    say(f"{quant.name}: {quant.meaning}", bold=True)
    entry("  kind", f"{quant.kind}; most weights are stored as {quant.base}")
    entry("  bits", f"{quant.bits:g} a weight on a llama of 8B: {quant.bits:.3g} GB")
    entry("  keeps", f"{shares} of a model's ability{native}")
    entry("  best for", quant.best_for)
    entry("  this CPU", f"{cpu}: {quant.on(here)}")
    entry("", f"({here.name}: {PRIOR})")
    if isinstance(measured, str):  # why there is nothing
        entry("  measured", measured)
        return
    rates = f"{measured.decode_gw_s:.1f}e9 weights/s for a token, {measured.prefill_gw_s:.1f}e9 in prompts"
    entry("  measured", f"{rates} ({measured.backend}, {counted(measured.threads, 'thread')})")
    for size, (decode, prefill) in measured.tok_s.items():
        entry("", f"a model of {size}: {show_rate(decode)} tok/s, prompts {show_rate(prefill)} tok/s")


def _show_all(chosen: list[Quant], cpu: str, here: IsaClass, rates: dict[str, MeasuredSpeed | None]) -> None:
    measured = any(rates.values())
    heads = [
        Column("name"),
        Column("bits", right=True),
        Column("8B keeps", right=True),
        Column("unpack", right=True, spare=3),
        *((Column("measured", right=True, spare=2),) if measured else ()),
        *(Column(size, right=True, spare=1) for size, _ in EXAMPLES if measured),
        Column("best for"),
    ]
    rows = []
    for quant in chosen:
        share = "trained" if quant.kind in TRAINED else f"{dict(_kept(quant))['8B']:.1%}"
        cells = _cells(rates[quant.name]) if measured else ()
        rows.append((quant.name, f"{quant.bits:.2f}", share, f"{relative(quant, here):.2f}x", *cells, quant.best_for))
    table(heads, rows)
    say(f"\nOn {cpu} ({here.name}); `edgellm quants NAME` explains one.")
    entry("bits", "per weight of a llama of 8B, its tables included", 9)
    entry("8B keeps", "of its ability; trained: for models trained in the type, which lose nothing, and no others", 9)
    entry("unpack", f"weights per second while decoding, against Q4_K: {PRIOR}", 9)


def _cells(measured: MeasuredSpeed | None) -> tuple[str, ...]:
    if measured is None:
        return ("-", *("-" for _ in EXAMPLES))
    tokens = (show_rate(measured.tok_s[size][0]) if size in measured.tok_s else "-" for size, _ in EXAMPLES)
    return (f"{measured.decode_gw_s:.1f}", *tokens)


def _show_builds(stored: list[tuple[str, Calibration]], threads: int, missing: str) -> None:
    from edgellm.types.calibration import nearest

    if not stored:
        entry("measured", missing, 9)
        return
    rows = []
    for name, rates in stored:
        count = nearest({threads for _, threads in rates.decode}, threads)
        rows.append(f"{name} with {counted(count, 'thread')}, {rates.date}, {rates.build}")
    entry("measured", f"1e9 weights per second while decoding, read from memory: {'; '.join(rows)}", 9)
    rates_of = "tokens per second of Llama 3.2 1B and Llama 3.1 8B with 1,024 tokens cached, by these rates"
    entry("1B, 8B", rates_of, 9)
