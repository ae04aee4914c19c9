"""The ternary engine against transformers' BitNetForCausalLM in float32: logits, and 64 greedy tokens.

    python benchmarks/ternary_reference.py --python PYTHON [--vocab 128256] [--layers 4] [--folder FOLDER ...]

PYTHON has torch and transformers (5.x); this project needs neither. Compared are the trained tiny-ternary, any Hugging
Face folders that are named, and two random models with the layers of BitNet b1.58 2B-4T, packed as that is. The engine
is given transformers' own tokens, so that one near tie does not hide what comes after it.

Each rounding of activations to int8 turns a difference of d steps into one of about sqrt(d) steps, since some values
fall the other way: after a few layers whose output is not small beside the residual stream, two float computations
differ by the rounding itself, whatever they started from. The model "unit" is of that kind, and no cosine to
transformers says there who is right. So every model is computed in float64 too (`ternary_exact.py`), and printed are

    cosine          of all logits, engine and transformers; with the engine's cache in 32 bits; transformers and itself
    to float64      the engine's (cache in 32 bits) and transformers' cosine to float64
    same integers   transformers against float64 that takes transformers' integers; how many it had rounded otherwise
    layer N         given transformers' input: cosines, and how many rows are without a value that fell the other way

Exit status 1: a cosine to transformers under 0.9999 ("unit": the engine is farther from float64 than transformers is,
by more than a quarter), or another token where the two largest logits are not close.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ternary_exact
from edgellm_bitnet.codecs import i2_s
from edgellm_bitnet.engine import BitnetEngine
from edgellm_bitnet.folder import FolderWeights
from edgellm_bitnet.models import TINY_TERNARY
from edgellm_bitnet.options import Options
from edgellm_bitnet.weights import GgufWeights, Weights, needed
from ternary_exact import cosine

from edgellm.contract.engine import SlotInput
from edgellm.types.plan import Settings

CHILD = Path(__file__).with_name("ternary_reference_torch.py")
LEAST_COSINE, LARGEST_GAP = 0.9999, 0.1
STEPS = 64
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_sub_norm": "mlp.ffn_sub_norm",
}  # fmt: skip
Array = npt.NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="a Python with torch and transformers")
    parser.add_argument("--vocab", type=int, default=128256, help="of the random model (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="of the random model (default: %(default)s)")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="a Hugging Face folder to compare too")
    given = parser.parse_args()
    sound = True
    with tempfile.TemporaryDirectory() as room:
        for name, weights, arguments in cases(given, Path(room)):
            out = Path(room) / "reference.npz"
            subprocess.run([given.python, str(CHILD), *arguments, str(out), str(STEPS)], check=True)
            reference = np.load(out)
            sound &= compare(name, weights, reference)
    return 0 if sound else 1


def cases(given: argparse.Namespace, room: Path) -> Iterator[tuple[str, Weights, list[str]]]:
    """(name, weights, what the child is asked to run)."""
    tiny = GgufWeights(TINY_TERNARY.files[0].source.removeprefix("file:"))
    np.savez(room / "tiny.npz", **dense(tiny))  # type: ignore[arg-type]
    yield "tiny-ternary", tiny, ["dense", str(room / "tiny.npz")]
    for folder in given.folder:
        yield str(folder), FolderWeights(str(folder)), ["run", str(folder)]
    for kind in ("residual", "unit"):
        made = room / kind
        command = [given.python, str(CHILD), "make", str(made), str(given.vocab), str(given.layers), kind]
        subprocess.run(command, check=True)
        name = f"{kind}: {given.layers} random layers of 2B-4T, a vocabulary of {given.vocab}"
        yield name, FolderWeights(str(made)), ["run", str(made)]


def dense(weights: GgufWeights) -> dict[str, Array | str]:
    """Transformers' names: products as -1, 0 and 1 with a scale, the rest as floats."""
    arch = weights.architecture
    config = {
        "vocab_size": arch.vocab, "hidden_size": arch.hidden, "intermediate_size": arch.ffn,
        "num_hidden_layers": arch.layers, "num_attention_heads": arch.heads, "num_key_value_heads": arch.kv_heads,
        "rms_norm_eps": arch.eps, "hidden_act": "relu2", "tie_word_embeddings": True,
        "max_position_embeddings": arch.ctx_train,
        "rope_parameters": {"rope_type": "default", "rope_theta": arch.rope_theta},
    }  # fmt: skip
    found: dict[str, Array | str] = {"config": json.dumps(config)}
    table = needed(weights, "token_embd.weight", arch.vocab, arch.hidden)
    found["model.embed_tokens.weight"] = q8_0(table.data, arch.vocab, arch.hidden)
    found["model.norm.weight"] = vector(weights, "output_norm.weight", arch.hidden)
    sizes = {"attn_sub_norm": arch.q_cols, "ffn_sub_norm": arch.ffn}
    for layer in range(arch.layers):
        for name, theirs in NAMES.items():
            role, key = f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{theirs}.weight"
            if name.endswith("norm"):
                found[key] = vector(weights, role, sizes.get(name, arch.hidden))
                continue
            raw = weights.matrix(role)
            assert raw is not None
            ternary = i2_s.decode(raw.data, raw.rows, raw.cols)
            found[key] = ternary.codes.astype(np.float32) - 1
            found[key + "_scale"] = ternary.scales.reshape(1)
    return found


def q8_0(data: npt.NDArray[np.uint8], rows: int, cols: int) -> Array:
    """Blocks of a half and 32 int8."""
    blocks = data.reshape(-1, 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    values: Array = blocks[:, 2:].view(np.int8).astype(np.float32) * scale
    return values.reshape(rows, cols)


def vector(weights: GgufWeights, role: str, size: int) -> Array:
    values = weights.vector(role, size)
    assert values is not None
    return values


def compare(name: str, weights: Weights, reference: Mapping[str, Any]) -> bool:
    """Print what the first comment says; False where they are too far apart."""
    tokens, wanted = reference["tokens"], reference["logits"]
    found = logits(weights, tokens, len(wanted))
    wide = logits(weights, tokens, len(wanted), cache="f32")
    ties = near_ties(found[-STEPS:], wanted[-STEPS:])
    here, own = cosine(found, wanted), cosine(reference["again"], wanted)
    print(f"{name}: {len(wanted)} positions")
    print(f"  cosine {here:.7f}, the least of a position {positions(found, wanted).min():.7f}", end="; ")
    print(f"cache=f32: {cosine(wide, wanted):.7f}; transformers to itself without its cache {own:.7f}")
    print(f"  greedy tokens: {STEPS - len(ties)} of {STEPS} the same; near ties: {ties or 'none'}", flush=True)
    ours, theirs = against_exact(weights, tokens[: len(wanted)], wide, reference)
    near = 1 - ours <= 1.25 * (1 - theirs) if name.startswith("unit") else here >= LEAST_COSINE
    return bool(near and all(gap <= LARGEST_GAP for *_, gap in ties))


def against_exact(
    weights: Weights, tokens: npt.NDArray[np.int64], wide: Array, reference: Mapping[str, Any]
) -> tuple[float, float]:
    """Print where float64 stands, whole and by layer; the engine's and transformers' cosine to it."""
    exact = ternary_exact.whole(weights, tokens)
    ours, theirs = cosine(wide, exact), cosine(reference["again"], exact)
    print(f"  to float64: engine {ours:.7f}, transformers {theirs:.7f}")
    forced, flips = ternary_exact.forced(weights, tokens, reference)
    print(
        f"  same integers: transformers to float64 {cosine(reference['again'], forced):.9f}; {flips.count} of "
        f"{flips.values} fell the other way, the farthest {flips.farthest:.1e} of a step from a half",
        flush=True,
    )
    for layer, (one, other, both) in enumerate(ternary_exact.layer_by_layer(weights, reference)):
        print(f"  layer {layer}: engine to transformers {both:.7f}", end="")
        for who, far in (("engine", one), ("transformers", other)):
            print(f"; {who} to float64 {far.cosine:.7f}, {far.clean} of {far.rows} rows at {far.median:.1e}", end="")
        print(flush=True)
    return ours, theirs


def logits(weights: Weights, tokens: npt.NDArray[np.int64], count: int, cache: str = "") -> Array:
    """Of the first `count` tokens: the prompt at once, then one by one."""
    settings, options = Settings(n_ctx=256, n_threads=2, n_threads_batch=2), Options(keep_packed=False, cache=cache)
    engine = BitnetEngine(weights, None, settings, options)  # type: ignore[arg-type]
    prompt = count - STEPS + 1
    rows = [engine.step([SlotInput(0, 0, tuple(map(int, tokens[:prompt])), prompt)])[0].copy()]
    rows += [engine.step([SlotInput(0, at, (int(tokens[at]),), 1)])[0].copy() for at in range(prompt, count)]
    engine.close()
    return np.concatenate(rows)


def positions(one: Array, other: Array) -> Array:
    found: Array = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return found


def near_ties(found: Array, wanted: Array) -> list[tuple[int, int, int, float]]:
    """(step, token here, token there, what lies between them as a share of the logits' deviation)."""
    ties = []
    for step, (one, other) in enumerate(zip(found, wanted, strict=True)):
        here, there = int(one.argmax()), int(other.argmax())
        if here != there:
            ties.append((step, here, there, round(float((one[here] - one[there]) / one.std()), 4)))
    return ties


if __name__ == "__main__":
    sys.exit(main())
