"""Speed of converted folders in onnxruntime alone, by bits, accuracy level and threads; llama.cpp on the same weights.

    python benchmarks/onnx_speed.py [--model smollm2-135m-instruct] [--threads 1 2] [--rounds 3] [--variants ...]

Decode: one token at a time behind a prompt of 128, keys and values in shared buffers bound once. Prompt: 512 tokens in
one run, logits of the last row only. Medians of rounds, variants by turns within a round, each in a process of its own,
as memory is measured too (what stays resident, anonymous and of files).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

PROMPT, DEPTH, STEPS = 512, 128, 48
# name -> (bits, source's quantization, accuracy level or 0 for llama.cpp, weights of 16 bits stored as float32)
VARIANTS: dict[str, tuple[int, str, int, bool]] = {
    "4 bits, level 4": (4, "Q4_0", 4, False), "4 bits, level 1": (4, "Q4_0", 1, False),
    "llama.cpp Q4_0": (4, "Q4_0", 0, False),
    "8 bits, level 4": (8, "Q8_0", 4, False), "8 bits, level 1": (8, "Q8_0", 1, False),
    "llama.cpp Q8_0": (8, "Q8_0", 0, False),
    "16 bits": (16, "F16", 1, False), "16 bits, stored in 32": (16, "F16", 1, True),
    "llama.cpp F16": (16, "F16", 0, False),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--files", type=Path, help="folder that keeps the files made; else they are removed")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help="make the files and stop")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(json.loads(arguments.child))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.files or Path(temporary)
        made = {name: prepare(place, arguments.model, name) for name in arguments.variants}
        if not arguments.prepare:
            measure(arguments, made)


def measure(arguments: argparse.Namespace, made: dict[str, Path]) -> None:
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for threads in arguments.threads:
            for name, path in made.items():
                job = {"path": str(path), "threads": threads}
                ran = subprocess.run(
                    [sys.executable, __file__, "--child", json.dumps(job)], capture_output=True, text=True, check=True
                )
                found.setdefault((name, threads), []).append(json.loads(ran.stdout.splitlines()[-1]))
    print("| variant | threads | decode, tokens/s | prompt, tokens/s | anonymous, MiB | of files, MiB |")
    print("|---|---|---|---|---|---|")
    for (name, threads), runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"| {name} | {threads} | {middle['decode']:.1f} | {middle['prompt']:.0f} | {middle['anonymous']:.0f} "
            f"| {middle['files']:.0f} |",
            flush=True,
        )


def prepare(place: Path, model: str, name: str) -> Path:
    """The GGUF file or the folder of a variant."""
    from onnx_parity import convert_to, edgellm, source_of, with_level

    bits, quant, level, wide = VARIANTS[name]
    path = place / f"{model}-{quant}.gguf"
    if not path.exists():
        edgellm("quantize", source_of(model), "--to", quant, "--allow-requantize", "--output", str(path))
    if not level:
        return path
    folder = place / f"{model}-{bits}"
    if not folder.exists():
        convert_to(path, folder, bits)
    if wide:
        return _in_float32(folder)
    return with_level(folder, level) if bits != 16 else folder


def _in_float32(folder: Path) -> Path:
    """The folder with its half-precision weights stored as float32, without the casts."""
    import onnx

    other = folder.with_name(f"{folder.name}-wide")
    if other.exists():
        return other
    other.mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    model = onnx.load(str(folder / "model.onnx"))
    names = set()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT16:
            names.add(tensor.name)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in names]
    renamed = {node.output[0]: node.input[0] for node in casts}
    for node in casts:
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    onnx.save(model, str(other / "model.onnx"), save_as_external_data=True, location="model.onnx.data")
    return other


def child(job: dict[str, Any]) -> dict[str, float]:
    """Rates of one variant, and memory while the model is loaded."""
    path = Path(job["path"])
    return _onnx(path, job["threads"]) if path.is_dir() else _llama_cpp(path, job["threads"])


def _memory() -> dict[str, float]:
    """What is resident now, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {key: int(status[name].split()[0]) / 1024 for key, name in (("anonymous", "RssAnon"), ("files", "RssFile"))}


def _onnx(folder: Path, threads: int) -> dict[str, float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    config = json.loads((folder / "config.json").read_text())
    dims = (1, config["num_key_value_heads"], PROMPT + DEPTH, config["head_dim"])
    names = [f"{n}.{what}" for n in range(config["num_hidden_layers"]) for what in ("key", "value")]
    cache = {name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(dims, np.float32)) for name in names}
    logits = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 1, config["vocab_size"]), np.float32))
    one = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones(1, np.int64))

    def step(tokens: list[int], n_past: int) -> None:
        binding = session.io_binding()
        ids, mask = np.asarray([tokens], np.int64), np.ones((1, n_past + len(tokens)), np.int64)
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_ortvalue_input("num_logits", one)
        for name, value in cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_ortvalue_output("logits", logits)
        session.run_with_iobinding(binding)

    return _rates(step)


def _llama_cpp(path: Path, threads: int) -> dict[str, float]:
    from edgellm_gguf.engine import LlamaEngine

    from edgellm.contract.engine import SlotInput
    from edgellm.types.model import Artifact
    from edgellm.types.plan import LaunchPlan, Settings

    settings = Settings(PROMPT + DEPTH, 1, threads, threads, "f16", n_batch=PROMPT)
    engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "made"), settings))

    def step(tokens: list[int], n_past: int) -> None:
        engine.truncate(0, n_past)
        engine.step([SlotInput(0, n_past, tuple(tokens), 1)])

    return _rates(step)


def _rates(step: Any) -> dict[str, float]:
    tokens = np.random.default_rng(0).integers(100, 40_000, PROMPT).tolist()
    step(tokens[:DEPTH], 0)
    prompts, steps = [], []
    for _ in range(3):
        started = time.perf_counter()
        step(tokens, 0)
        prompts.append(time.perf_counter() - started)
    step(tokens[:DEPTH], 0)
    for n in range(STEPS):
        started = time.perf_counter()
        step([tokens[n]], DEPTH + n)
        steps.append(time.perf_counter() - started)
    return {"decode": 1 / statistics.median(steps), "prompt": PROMPT / min(prompts)} | _memory()


if __name__ == "__main__":
    main()
