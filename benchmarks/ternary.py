"""The ternary engine against llama.cpp and bitnet.cpp, and against what this machine can do.

    python benchmarks/ternary.py [--rounds 5] [--threads 1,2] [--only main,product,...] [--json FILE] [--guard COMMAND]
    python benchmarks/ternary.py --scale [--shapes 0.7B,2B-4T,8B,30B,70B]

The model has the shape of BitNet b1.58 2B-4T and random weights, the same in every file; files are written once, to
the cache folder or to --models. llama.cpp is the installed package (TQ2_0). bitnet.cpp (I2_S) takes part where
BITNET_BENCH names its `llama-bench`, built outside of this project. Samples of the engines alternate, and each stands
between two probes of the machine (`roofs.py`). On a machine that others use, --guard names a command that keeps them
away while the command that follows it runs, such as `flock FILE`.

Sections of --only: main (decode and prefill, three engines), product (the matrix product alone), batch (8 slots),
context (4,096 cached tokens), heads (an F16 head, requantized), load. --scale is a run of its own: 70B takes 18 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ternary_models
from brackets import Sample, alone, bandwidth, bracketed, int8_peak, shares, spread
from ternary_peers import BitnetCpp, child, model, read_bytes

from edgellm import settings

SHAPE = ternary_models.SHAPES["2B-4T"]
HEAD_MACS = SHAPE.vocab * SHAPE.hidden
WORK = {"tg128": (0, 128), "pp128": (128, 0), "pp512": (512, 0)}
CONTEXT = 4096
Results = dict[str, list[Sample]]


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(title: str, *cells: str) -> None:
    print(f"\n{title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def rates(samples: list[Sample]) -> str:
    return spread([sample.rate for sample in samples])


def roof(samples: list[Sample]) -> str:
    return spread([value for sample in samples for value in (sample.before, sample.after)], 0)


class Bench:
    """Options, and every sample by section and name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.threads = [int(part) for part in options.threads.split(",")]
        self.samples: dict[str, Results] = {}

    def alternate(
        self, name: str, probe: Callable[[], float], measures: dict[str, Callable[[], float]], rounds: int = 0
    ) -> Results:
        """`rounds` windows, in each a bracketed sample of every measure, beginning with another one each time."""
        found: Results = defaultdict(list)
        labels = list(measures)
        for number in range(rounds or self.options.rounds):
            order = labels[number % len(labels) :] + labels[: number % len(labels)]
            with alone(self.options.guard):
                for label, sample in zip(order, bracketed(probe, [measures[x] for x in order]), strict=True):
                    found[label].append(sample)
        self.samples[name] = found
        return found

    def file(self, ternary: str, head: str) -> Path:
        return model(Path(self.options.models), ternary, head)


def main_table(bench: Bench) -> None:
    """Decode and prefill of three engines."""
    program = os.environ.get("BITNET_BENCH")
    bitnet = BitnetCpp(program, bench.file("i2_s", "q6_k")) if program else None
    found: dict[tuple[str, int], Results] = {}
    with contextlib.ExitStack() as stack:
        ours, theirs = {}, {}
        for n in bench.threads:
            ours[n] = stack.enter_context(child("edgellm", bench.file("i2_s", "q6_k"), n, keep=True))
            theirs[n] = stack.enter_context(child("llama.cpp", bench.file("tq2_0", "q6_k"), n))
        for n in bench.threads:
            for work, (prompt, tokens) in WORK.items():
                call = {"call": "decode", "n": tokens} if tokens else {"call": "prefill", "n": prompt}
                measures: dict[str, Callable[[], float]] = {
                    "edgellm": lambda n=n, call=call: ours[n].ask(**call),
                    "llama.cpp": lambda n=n, call=call: theirs[n].ask(**call),
                }
                if bitnet:
                    measures["bitnet.cpp"] = lambda n=n, p=prompt, t=tokens: bitnet.run(p, t, n)
                probe = bandwidth(n) if tokens else int8_peak(n)
                found[work, n] = bench.alternate(f"main {work} {n}", probe, measures)
        ours_bytes = int(ours[bench.threads[0]].about["token_bytes"])
    token_bytes = {
        "edgellm": ours_bytes, "llama.cpp": read_bytes("tq2_0", "q6_k"), "bitnet.cpp": read_bytes("i2_s", "q6_k"),
    }  # fmt: skip
    names = [name for name in token_bytes if name in next(iter(found.values()))]
    header("tokens/s, median (least-most)", "", *names, *(f"ratio to {name}" for name in names[1:]))
    for (work, n), results in found.items():
        ratios = [spread(ratio(results["edgellm"], results[name]), 2) for name in names[1:]]
        row(f"{work}, {threads(n)}", *(rates(results[name]) for name in names), *ratios)
    header("share of the roof, %", "", "the roof", *names)
    for (work, n), results in found.items():
        unit = {name: token_bytes[name] / 1e9 if work == "tg128" else SHAPE.ternary_weights / 1e9 for name in names}
        every = [sample for samples in results.values() for sample in samples]
        kind = "GB/s" if work == "tg128" else "GMAC/s"
        row(f"{work}, {threads(n)}", f"{roof(every)} {kind}", *(spread(shares(results[x], unit[x]), 0) for x in names))
    print("\nbytes read for a token: " + ", ".join(f"{name} {token_bytes[name]:,}" for name in names))


def ratio(ours: list[Sample], theirs: list[Sample]) -> list[float]:
    return [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]


def threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def product(bench: Bench) -> None:
    """The ternary products of all layers for 512 tokens, without attention, norms and head."""
    header("product of pp512", "", "GMAC/s", "int8 peak", "% of it")
    for n in bench.threads:
        with child("edgellm", bench.file("i2_s", "q6_k"), n, keep=True) as ours:
            measure = {"all": lambda ours=ours: ours.ask("product", tokens=512)}
            found = bench.alternate(f"product {n}", int8_peak(n), measure)
        row(threads(n), rates(found["all"]), roof(found["all"]), spread(shares(found["all"], 1), 0))


def batch(bench: Bench) -> None:
    """Eight slots decode together."""
    header("8 slots", "", "tokens/s", "int8 peak, GMAC/s", "% of it")
    unit = (SHAPE.ternary_weights + HEAD_MACS) / 1e9
    for n in bench.threads:
        with (
            child("edgellm", bench.file("i2_s", "q6_k"), n, keep=True, slots=8) as q6,
            child("edgellm", bench.file("i2_s", "f16"), n, keep=True, slots=8, head="q8") as q8,
        ):
            measures = {name: lambda c=c: c.ask("decode", n=48, slots=8) for name, c in (("Q6_K", q6), ("int8", q8))}
            found = bench.alternate(f"batch {n}", int8_peak(n), measures)
        for name, samples in found.items():
            row(f"{name} head, {threads(n)}", rates(samples), roof(samples), spread(shares(samples, unit), 0))


def context(bench: Bench) -> None:
    """Decode at 4,096 cached tokens against the rate that its bytes foretell from the rate at 16."""
    header(f"{CONTEXT} cached tokens", "cache", "at 16", "at 4,096", "foretold", "% of it", "GB/s", "probe")
    for n in bench.threads:
        for kv_type, cell in (("f16", 4 * SHAPE.head_dim), ("q8_0", 2 * SHAPE.head_dim + 8)):
            with child(
                "edgellm", bench.file("i2_s", "q6_k"), n, keep=True, n_ctx=CONTEXT + 64, slots=2, kv_type=kv_type
            ) as c:
                weights, cache = c.about["token_bytes"], SHAPE.layers * SHAPE.kv_heads * cell
                c.ask("hold", slot=0, n=CONTEXT)
                measures = {
                    "short": lambda c=c: c.ask("decode", n=48, past=16, first=1),
                    "long": lambda c=c: c.ask("decode", n=48, past=CONTEXT, first=0),
                }
                found = bench.alternate(f"context {kv_type} {n}", bandwidth(n), measures)
            short, long = weights + cache * (16 + 24), weights + cache * (CONTEXT + 24)
            foretold = [sample.rate * short / long for sample in found["short"]]
            share = [100 * s.rate / f for s, f in zip(found["long"], foretold, strict=True)]
            row(
                f"{kv_type}, {threads(n)}", rates(found["short"]), rates(found["long"]), spread(foretold),
                spread(share, 0), spread([s.rate * long / 1e9 for s in found["long"]]), roof(found["long"]),
            )  # fmt: skip


def heads(bench: Bench) -> None:
    """The file with an F16 head, as it is and requantized at load: speed, and what becomes of the logits."""
    header("F16 head, requantized", "head", "threads", "tg128", "MB a token", "% of the bandwidth", "load, s")
    path, kinds = bench.file("i2_s", "f16"), {"F16": "", "q8": "q8", "q6": "q6", "q4": "q4"}
    logits: dict[str, Any] = {}
    for n in bench.threads:
        with contextlib.ExitStack() as stack:
            children = {name: stack.enter_context(child("edgellm", path, n, head=head)) for name, head in kinds.items()}
            measures = {name: lambda c=c: c.ask("decode", n=128) for name, c in children.items()}
            found = bench.alternate(f"heads {n}", bandwidth(n), measures)
            for name, samples in found.items():
                about = children[name].about
                share = spread(shares(samples, about["token_bytes"] / 1e9), 0)
                row(name, n, rates(samples), f"{about['token_bytes'] / 1e6:.0f}", share, f"{about['load_s']:.2f}")
            for name in kinds if not logits else ():
                target = Path(bench.options.models) / f"logits-{name}.npy"
                children[name].ask("logits", n=64, path=str(target))
                logits[name] = np.load(target).astype(np.float64)
                target.unlink()
    header("logits against the F16 head's, 32 tokens", "head", "least cosine", "mean KL, nats", "same best token")
    for name in list(kinds)[1:]:
        row(name, *difference(logits["F16"], logits[name]))


def difference(right: Any, other: Any) -> tuple[str, str, str]:
    cosine = (right * other).sum(1) / np.linalg.norm(right, axis=1) / np.linalg.norm(other, axis=1)
    log_p, log_q = (x - x.max(1, keepdims=True) for x in (right, other))
    log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (log_p, log_q))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    same = int((right.argmax(1) == other.argmax(1)).sum())
    return f"{cosine.min():.6f}", f"{kl:.2e}", f"{same} of {len(right)}"


def load(bench: Bench) -> None:
    """First load (packing, writing the packed file) and loads after it, of a file that the page cache has."""
    header("load", "", "seconds", "peak memory, MiB", "how")
    path = bench.file("i2_s", "q6_k")
    Path(path).read_bytes()
    os.utime(path)  # another file, as far as packed files go
    for number in range(bench.options.rounds + 1):
        with alone(bench.options.guard), child("edgellm", path, max(bench.threads), keep=True, slots=1) as ours:
            about = ours.about
        peak = f"{about['peak_bytes'] / 2**20:.0f}"
        row(
            "first" if number == 0 else "packed file", f"{about['load_s']:.3f}", peak, about["weights"].split(" in ")[0]
        )


def scale(bench: Bench) -> None:
    """Shapes from 0.7B to 70B: weights of random bits, no file."""
    columns = ["a token reads, GB", "load, s (of processors)", "tokens/s", "GB/s", "probe", "% of it"]
    header("scale, 1 thread", "shape", *columns, "peak, GB", "footprint, GB", "peak off by")
    for name in bench.options.shapes.split(","):
        with child("edgellm", name, 1, n_ctx=512, threads_batch=max(bench.threads)) as ours:
            size = ours.about["token_bytes"]
            steps = min(400, max(8, int(4 * 30e9 / size)))
            measure = {"all": lambda ours=ours, n=steps: ours.ask("decode", n=n)}
            found = bench.alternate(f"scale {name}", bandwidth(1), measure)
            ours.ask("prefill", n=300)
            about, samples = ours.ask("about"), found["all"]
        peak, foretold = about["peak_bytes"], about["footprint_bytes"]
        gb_s = spread([sample.rate * size / 1e9 for sample in samples])
        loading = f"{about['load_s']:.1f} ({about['load_cpu_s']:.1f})"
        row(
            name, f"{size / 1e9:.2f}", loading, spread([s.rate for s in samples], 2), gb_s,
            roof(samples), spread(shares(samples, size / 1e9), 0), f"{peak / 1e9:.3f}", f"{foretold / 1e9:.3f}",
            f"{100 * (peak / foretold - 1):+.1f} %",
        )  # fmt: skip


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "main": main_table, "product": product, "batch": batch, "context": context, "heads": heads, "load": load,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--rounds", type=int, default=5, help="samples of everything (default: %(default)s)")
    parser.add_argument("--threads", default=f"1,{cores}" if cores > 1 else "1", help="(default: %(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run (default: %(default)s)")
    parser.add_argument("--scale", action="store_true", help="shapes of 0.7B to 70B instead")
    parser.add_argument("--shapes", default="0.7B,2B-4T,8B,30B,70B", help="of --scale (default: %(default)s)")
    files = settings.current().cache_dir / "benchmarks"
    parser.add_argument("--models", default=files, help="folder of the files (default: %(default)s)")
    parser.add_argument("--guard", default="", help="command that keeps others away")
    parser.add_argument("--json", help="write every sample to this file")
    options = parser.parse_args()
    bench = Bench(options)
    if not os.environ.get("BITNET_BENCH") and not options.scale:
        print("bitnet.cpp is left out: BITNET_BENCH names no bench program", file=sys.stderr)
    for name in ["scale"] if options.scale else options.only.split(","):
        scale(bench) if options.scale else SECTIONS[name](bench)
    if options.json:
        text = {
            section: {name: [(s.rate, s.before, s.after) for s in samples] for name, samples in results.items()}
            for section, results in bench.samples.items()
        }
        Path(options.json).write_text(json.dumps(text, indent=1))


if __name__ == "__main__":
    main()
