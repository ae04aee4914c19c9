"""The error for a task that the running model does not do."""

from __future__ import annotations

from typing import Literal

from edgellm.contract.engine import EngineInfo
from edgellm.errors import UnsupportedTask, speaks_in_flags


def unsupported_task(task: Literal["chat", "embed", "rerank"], info: EngineInfo) -> UnsupportedTask:
    """Says what the model does, how that is asked for, and which model would do the task."""
    able = [name for name in ("embed", "rerank") if name in info.capabilities]
    does = [*(["writes text"] if info.generates else []), *(f"{name}s" for name in able)]
    path = "/v1/{}" if speaks_in_flags() else "EdgeLLM.{}"
    calls = [path.format("embeddings" if name == "embed" and speaks_in_flags() else name) for name in able]
    hints = {
        "chat": f"use {' or '.join(calls)}, or name a chat model" if calls else "name a chat model",
        "embed": "name an embedding model: `edgellm models --task embed` lists those of the catalog",
        "rerank": "name a reranking model (a cross-encoder); embeddings are not compared in its place",
    }
    return UnsupportedTask(f"the model cannot {task}: it {' and '.join(does) or 'does nothing'}", hint=hints[task])
