"""Another environment's half of `onnx_exporters.py`: makes models, exports them, and writes its own logits beside them.

PYTHON onnx_exporters_child.py optimum|genai FOLDER     FOLDER has tokenizer.json and tokens.json
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

VOCAB = 320


def main() -> None:
    task, work = sys.argv[1], Path(sys.argv[2])
    tokens = json.loads((work / "tokens.json").read_text())
    for name in ("llama", "qwen2"):
        saved, model = save(work, name)
        if task == "optimum":
            export(saved, work / f"{name}-optimum")
            with torch.no_grad():
                logits = model(torch.tensor([tokens])).logits[0].numpy()
            np.savez(work / f"{name}-optimum" / "logits.npz", tokens=tokens, logits=logits)
            continue
        for precision in ("fp32", "int4"):
            folder = work / f"{name}-{precision}"
            build(saved, folder, precision)
            np.savez(folder / "logits.npz", tokens=tokens, logits=generated(folder, tokens))


def save(work: Path, name: str) -> tuple[Path, Any]:
    """A random model with the tokenizer beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 0,
        "eos_token_id": 1, "pad_token_id": None, "initializer_range": 0.2,
    }  # fmt: skip
    made = (
        LlamaForCausalLM(LlamaConfig(**sizes))
        if name == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True))
    )
    folder = work / "saved" / name
    made.eval().save_pretrained(folder)
    shutil.copy(work / "tokenizer.json", folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder, made


def export(saved: Path, folder: Path) -> None:
    from optimum.exporters.onnx import main_export

    main_export(str(saved), folder, task="text-generation-with-past", do_validation=False)


def build(saved: Path, folder: Path, precision: str) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(saved), "-o", str(folder)]
    command += ["-p", precision, "-e", "cpu", "-c", str(folder.with_suffix(".cache"))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def generated(folder: Path, tokens: list[int]) -> Any:
    """float32 [tokens, vocab], one token after another."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(tokens) + 1, do_sample=False)
    generator = og.Generator(model, params)
    rows = []
    for token in tokens:
        generator.append_tokens(np.array([token], np.int32))
        rows.append(np.array(generator.get_logits(), np.float32).reshape(-1, VOCAB)[-1].copy())
    return np.stack(rows)


if __name__ == "__main__":
    main()
