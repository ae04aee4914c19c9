"""Writes factors as a peft folder, which `PeftModel.from_pretrained` loads, and `peft_folder.load` to the same bits."""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.adaptation.lora import Lora
from edgellm.adaptation.module_names import MODULES, module_name
from edgellm.adaptation.peft_config import CONFIG
from edgellm.adaptation.peft_folder import WEIGHTS
from edgellm.adaptation.row_order import row_order
from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.files import write_atomic, writing
from edgellm.formats.gguf.adapter import EMBEDDING
from edgellm.formats.gguf.reader import GgufModel
from edgellm.formats.safetensors.writer import write_safetensors

_PREFIX = "base_model.model."


def write(folder: Path, lora: Lora, model: GgufModel, *, base: str = "") -> None:
    """A new folder, whole or absent. `base`: what Hugging Face calls the model, for who loads the folder.

    F16 stays F16; BF16 becomes F32, which holds it exactly.

    Raises:
        UnsupportedArtifact: it is no adapter (DoRA), or has a matrix whose module is not known.
        UsageError: the folder exists or cannot be written. DiskFull.
    """
    lora.require_adapter(str(folder))
    config, arrays = _content(lora, model, base)
    if folder.exists():
        raise UsageError(f"{folder} exists already", hint="choose another name", param="output")
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    with writing(folder, param="output"):
        part.mkdir()
        try:
            write_safetensors(part / WEIGHTS, arrays, {"format": "pt"})
            write_atomic(part / CONFIG, (json.dumps(config, indent=2) + "\n").encode(), sync=True)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _content(lora: Lora, model: GgufModel, base: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    kind = np.float16 if lora.stored == "F16" else np.float32
    arrays: dict[str, npt.NDArray[Any]] = {}
    ranks: dict[str, int] = {}
    for name, pair in lora.factors.items():
        module = module_name(lora.architecture, name) if lora.architecture in MODULES else None
        if module is None or pair.a.ndim != 2:
            message = f"what Hugging Face calls {name} of {lora.architecture} is not known"
            raise UnsupportedArtifact(message, hint=f"known are modules of {', '.join(sorted(MODULES))}")
        order = row_order(model.header, name, len(pair.b))
        a, b = pair.a, pair.b if order is None else pair.b[order.to_hub]
        ranks[module] = pair.rank
        if name == EMBEDDING:
            parts = {"lora_embedding_A": b.T, "lora_embedding_B": a.T}
        else:
            parts = {"lora_A.weight": a, "lora_B.weight": b}
        arrays |= {f"{_PREFIX}{module}.{part}": values.astype(kind) for part, values in parts.items()}
    (rank, _), *_ = Counter(ranks.values()).most_common(1)
    others = {module: other for module, other in ranks.items() if other != rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": rank,
        # Without an alpha the scale is 1, whatever the rank.
        "lora_alpha": _plain(lora.alpha or rank),
        "rank_pattern": others,
        "alpha_pattern": {} if lora.alpha else others,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": _targets(ranks, model),
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "inference_mode": True,
        **({"alora_invocation_tokens": list(lora.invocation_tokens)} if lora.invocation_tokens else {}),
    }
    return config, arrays


def _plain(alpha: float) -> int | float:
    return int(alpha) if alpha == int(alpha) else alpha


def _targets(modules: dict[str, int], model: GgufModel) -> list[str]:
    """The last parts of their names where every module of such a name is adapted, else the names in full."""
    tensors = {tensor.name for tensor in model.tensors}
    everywhere = {module_name(model.header.architecture, name) for name in tensors} - {None}
    last = {module.rpartition(".")[2] for module in modules}
    meant = {module for module in everywhere if module and module.rpartition(".")[2] in last}
    return sorted(last if meant == set(modules) else modules)
