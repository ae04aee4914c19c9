"""An embedding model on llama.cpp: one whose file names a kind of pooling. Sequences of a batch are sequences of one
context, which is empty again after each. In a worker only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from edgellm.contract.embedder import EmbeddingInfo, EmbedsOnly, check_sequences, unit
from edgellm.contract.engine import EngineInfo, SlotInput
from edgellm.errors import StepFailed, option
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf.engine import Batch
from edgellm_gguf.loading import LOG, LoadedModel, system_info
from edgellm_gguf.params import context_params

# llama.h: enum llama_pooling_type. 0 is none, 4 a reranker's, whose input llama.cpp gives no segments.
POOLING = {1: "mean", 2: "cls", 3: "last"}
MAX_SEQUENCES = 64  # of one batch; the library allows 256


class LlamaEmbedder(EmbedsOnly, LoadedModel):
    """A loaded embedding model."""

    def __init__(self, plan: LaunchPlan, pooling: str) -> None:
        settings = plan.settings
        params = embedding_params(settings, pooling)
        super().__init__(
            plan, params, settings.n_threads_batch, size=f"{params.n_ctx}", hint=f"ask for less with {option('ctx')}"
        )
        self.info = self._describe(settings, pooling)
        self._capacity = max(self.info.n_ctx, self.info.max_batch_tokens)
        self._batch = Batch(self._capacity)

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """float32 (len(sequences), n_embd) of unit length, pooled as the file says.

        Raises:
            CacheFull: a sequence longer than the context. ValueError: an empty one, or an id that there is not.
            StepFailed: the library failed.
        """
        check_sequences(sequences, self.info.vocab_size, self.info.n_ctx)
        rows = np.empty((len(sequences), self.info.n_embd), np.float32)
        begin = 0
        while begin < len(sequences):
            end, total = begin, 0
            while (
                end < len(sequences) and end - begin < MAX_SEQUENCES and total + len(sequences[end]) <= self._capacity
            ):
                total += len(sequences[end])
                end += 1
            self._compute(sequences[begin:end], rows[begin:end])
            begin = end
        return unit(rows)

    def _compute(self, sequences: Sequence[Sequence[int]], rows: npt.NDArray[np.float32]) -> None:
        # All tokens are outputs: pooling sees what is one.
        entries = [SlotInput(n, 0, tuple(tokens), len(tokens)) for n, tokens in enumerate(sequences)]
        self._batch.fill(entries)
        memory = llama_cpp.llama_get_memory(self._ctx)
        if memory:  # an encoder has none
            llama_cpp.llama_memory_clear(memory, False)
        status = llama_cpp.llama_decode(self._ctx, self._batch.struct)
        if status != 0:
            raise StepFailed(f"llama_decode returned {status}{LOG.last()}")
        for n in range(len(sequences)):
            vector = llama_cpp.llama_get_embeddings_seq(self._ctx, n)
            if not vector:
                raise StepFailed(f"llama.cpp gave no vector for sequence {n}{LOG.last()}")
            rows[n] = np.ctypeslib.as_array(vector, shape=(self.info.n_embd,))

    def _describe(self, settings: Settings, pooling: str) -> EngineInfo:
        trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        n_ctx = min(settings.n_ctx, trained) if trained > 0 else settings.n_ctx
        return EngineInfo(
            n_slots=settings.n_slots, n_ctx=n_ctx, max_batch_tokens=settings.n_batch, max_logits=settings.n_slots,
            vocab_size=int(llama_cpp.llama_vocab_n_tokens(self._vocab)), eos_ids=frozenset(),
            n_embd=int(llama_cpp.llama_model_n_embd_out(self._model)),
            add_bos=bool(llama_cpp.llama_vocab_get_add_bos(self._vocab)), rewind_tokens=0, generates=False,
            capabilities=frozenset({"embed"}), embedding=EmbeddingInfo(pooling), device=LOG.devices() or "cpu",
            allocated_bytes=LOG.allocated_bytes(),
            details={
                "library": system_info(), "pooling": f"{pooling}, from the file",
                "normalized": "to unit length, as llama.cpp's own tools do",
            },
        )  # fmt: skip


def embedding_params(settings: Settings, pooling: str) -> Any:
    """llama_context_params."""
    params = context_params(settings)
    whole = max(settings.n_ctx, settings.n_batch)
    params.embeddings = True
    params.n_ctx = params.n_batch = params.n_outputs_max = whole
    # Attention that sees later tokens, and sums over all, need a sequence in one piece.
    params.n_ubatch = settings.n_batch if pooling == "last" else whole
    params.n_seq_max = MAX_SEQUENCES
    params.n_threads = settings.n_threads_batch
    params.kv_unified = True  # sequences share the cells: there are as many as a batch has tokens
    return params
