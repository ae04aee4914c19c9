"""Tuning on torch against a bare loop over peft on the same tokens, and predicted memory against what is taken.

    python benchmarks/tuning.py FILE.gguf [--pairs 5] [--rows 1 --length 256]     # against peft (llama files)
    python benchmarks/tuning.py FILE.gguf --memory                                # predicted and measured, 16 settings

Each run is a process of its own (`tuning_child.py`), with one thread; pairs take turns. The bare loop has the same
factors on transformers' model in float32, torch's AdamW, and the model's own loss over all logits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgellm.units import MIB

CHILD = Path(__file__).with_name("tuning_child.py")
SHAPES = ((1, 64), (1, 256), (4, 256), (2, 512))
WAYS: tuple[dict[str, Any], ...] = (
    {"checkpointing": True},
    {"checkpointing": False},
    {"checkpointing": True, "quantized": False},
    {"checkpointing": True, "method": "dora"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--supervised", type=float, default=0.5, help="share of the tokens")
    options = parser.parse_args()
    if options.memory:
        compare_memory(options.path, options.supervised)
    else:
        compare_with_peft(options)


def compare_memory(path: str, supervised: float) -> None:
    ratios = []
    for way in WAYS:
        for rows, length in SHAPES:
            result = run(path=path, rows=rows, length=length, supervised=supervised, **way)
            ratios.append(result["peak"] / result["predicted"])
            print(
                f"{rows} x {length}, {way}: {result['peak'] / MIB:.0f} MiB, {ratios[-1]:.3f} of the predicted",
                flush=True,
            )
    print(f"{len(ratios)} settings: {min(ratios):.3f} to {max(ratios):.3f}, median {statistics.median(ratios):.3f}")


def compare_with_peft(options: argparse.Namespace) -> None:
    """Without layers computed again on either side, and the base unpacked on both."""
    case = {
        "path": options.path, "rows": options.rows, "length": options.length, "supervised": options.supervised,
        "checkpointing": False, "quantized": False, "steps": 3,
    }  # fmt: skip
    times, peaks = [], []
    for pair in range(options.pairs):
        order = (False, True) if pair % 2 else (True, False)
        results = {peft: run(peft=peft, **case) for peft in order}
        ours, theirs = results[False], results[True]
        times.append(ours["step_s"] / theirs["step_s"])
        beyond = ours["step_bytes"], theirs["step_bytes"]
        peaks.append(beyond[0] / beyond[1])
        print(
            f"a step: {ours['step_s']:.2f} s of processor time against {theirs['step_s']:.2f} ({times[-1]:.3f}); "
            f"beyond weights and moments {beyond[0] / MIB:.0f} MiB against {beyond[1] / MIB:.0f} ({peaks[-1]:.3f})",
            flush=True,
        )
    median = statistics.median(times), statistics.median(peaks)
    print(f"median of {len(times)} pairs: {median[0]:.3f} of the time, {median[1]:.3f} of the memory")


def run(**case: Any) -> dict[str, float]:
    done = subprocess.run([sys.executable, str(CHILD), json.dumps(case)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
