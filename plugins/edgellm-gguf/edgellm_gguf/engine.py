"""One GGUF model on llama.cpp's C API: slots are sequence ids of one context, logits are views of its own memory.

Knows nothing of text beyond the tokenizer it carries, and nothing of sampling. Imported in a worker only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np

from edgellm.contract.engine import EngineInfo, Logits, SlotInput, check_batch
from edgellm.errors import CacheFull, StepFailed, option
from edgellm.formats.gguf.header import GgufHeader
from edgellm.formats.gguf.reader import chat_template, read_header
from edgellm.formats.gguf.vocabulary import token_kinds
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf.adapters import Loras
from edgellm_gguf.loading import LOG, LoadedModel, system_info
from edgellm_gguf.params import context_params, max_logits


class LlamaEngine(LoadedModel):
    """A loaded model and its context."""

    def __init__(self, plan: LaunchPlan, header: GgufHeader | None = None) -> None:
        """`header`: of the plan's file, where it was read before."""
        settings = plan.settings
        super().__init__(
            plan, context_params(settings), settings.n_threads, size=f"{settings.n_slots} x {settings.n_ctx}",
            hint=f"ask for less with {option('ctx')} or {option('slots')}, or fewer {option('gpu_layers')}",
        )  # fmt: skip
        self._memory = llama_cpp.llama_get_memory(self._ctx)
        self._loras = Loras(self._model, self._ctx, plan.artifact.path)
        self._n_swa = int(llama_cpp.llama_model_n_swa(self._model))
        self._batch = Batch(settings.n_batch)
        self._n_past = [0] * settings.n_slots
        self._suspect: set[int] = set()  # slots whose cells may hold NaN: see `_clean`
        self._views: dict[tuple[int, int], Logits] = {}
        self.info = self._describe(settings, header or read_header(plan.artifact.path))

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """See `edgellm.contract.engine.Engine.step`."""
        check_batch(batch, self.info, self._n_past)
        self._loras.use(batch[0].adapters)
        rows = self._batch.fill(batch)
        status = llama_cpp.llama_decode(self._ctx, self._batch.struct)
        if status != 0:
            self._recover(batch, status)
        for entry in batch:
            self._n_past[entry.slot] = entry.n_past + len(entry.tokens)
            if entry.adapters and not entry.n_logits:
                self._suspect.add(entry.slot)
        if rows == 0:
            # Nothing reads the results, so nothing waits for them: the next step would run beside this one.
            llama_cpp.llama_synchronize(self._ctx)
            return []
        logits = self._view(rows)
        views, at = [], 0
        for entry in batch:
            if entry.n_logits:
                views.append(logits[at : at + entry.n_logits])
                at += entry.n_logits
                # NaN in what a token attends to makes all of its logits NaN, and the last one attends to the most.
                if np.isfinite(logits[at - 1, 0]):
                    self._suspect.discard(entry.slot)
                else:
                    self._suspect.add(entry.slot)
        return views

    def truncate(self, slot: int, n_tokens: int) -> int:
        """See `Engine.truncate`. A sliding window that has moved on, or recurrent state, keeps nothing."""
        if slot in self._suspect and not 0 < self._n_past[slot] <= n_tokens:
            self._clean(slot)
        kept = min(n_tokens, self._n_past[slot])
        if kept < self._n_past[slot]:
            oldest = llama_cpp.llama_memory_seq_pos_min(self._memory, slot)
            window_lost = self._n_swa > 0 and oldest > max(0, kept - self._n_swa)
            if kept == 0 or window_lost or not llama_cpp.llama_memory_seq_rm(self._memory, slot, kept, -1):
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
                kept = 0
        self._n_past[slot] = kept
        return kept

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """See `Engine.fork`. Slots are streams of their own, so the whole source is copied and the tail cut off."""
        if source in self._suspect or target in self._suspect:
            return self.truncate(target, 0)
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._n_past[target] = self._n_past[source]
        return self.truncate(target, n_tokens)

    @property
    def _is_recurrent(self) -> bool:
        """Whether it has states of its own beside what attention reads, or in its place."""
        model = self._model
        return bool(llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))

    def _clean(self, slot: int) -> None:
        """Empty a slot whose cells may hold NaN, which its next tokens would read: attention reads cells that are free,
        too, and NaN times a weight of zero stays NaN. So all cells of another slot are put in their place.

        Where none is without NaN, or the model has states, which are not copied, the library clears all slots, and the
        others get theirs back.

        Raises:
            StepFailed: it did not take back what it had given.
        """
        self._n_past[slot] = 0
        other = next((one for one in range(len(self._n_past)) if one not in self._suspect), None)
        if other is not None and not self._is_recurrent:
            llama_cpp.llama_memory_seq_cp(self._memory, other, slot, -1, -1)
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._suspect.discard(slot)
            return
        states = {other: self._state(other) for other, n_past in enumerate(self._n_past) if n_past}
        llama_cpp.llama_memory_clear(self._memory, True)
        self._suspect &= states.keys()
        for other, state in states.items():
            if llama_cpp.llama_state_seq_set_data(self._ctx, state, len(state), other) != len(state):
                self._n_past[other] = 0
                raise StepFailed(f"llama.cpp did not take back what slot {other} held", lost_slots=tuple(states))

    def _state(self, slot: int) -> ctypes.Array[ctypes.c_uint8]:
        """All that the library holds of a slot."""
        size = llama_cpp.llama_state_seq_get_size(self._ctx, slot)
        state: ctypes.Array[ctypes.c_uint8] = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self._ctx, state, size, slot)
        return state

    def load_adapter(self, name: str, path: str) -> None:
        """See `edgellm.contract.engine.AdapterLoader`."""
        self._loras.load(name, path)

    def drop_adapter(self, name: str) -> None:
        """See `AdapterLoader`."""
        self._loras.drop(name)

    def _recover(self, batch: Sequence[SlotInput], status: int) -> None:
        """Turn llama_decode's status into the contract's errors (llama.h): 1 = no cells and nothing changed."""
        if status == 1:
            needed = sum(len(entry.tokens) for entry in batch)
            raise CacheFull(f"no room for {needed} tokens in the cache", needed=needed)
        lost = tuple(entry.slot for entry in batch)
        for slot in lost:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._n_past[slot] = 0
        raise StepFailed(f"llama_decode returned {status}{LOG.last()}", lost_slots=lost)

    def _view(self, rows: int) -> Logits:
        pointer = llama_cpp.llama_get_logits(self._ctx)
        address = ctypes.cast(pointer, ctypes.c_void_p).value or 0
        view = self._views.get((address, rows))
        if view is None:
            n_vocab = self.info.vocab_size
            flat = (ctypes.c_float * (rows * n_vocab)).from_address(address)
            view = np.frombuffer(memoryview(flat).cast("B"), dtype=np.float32).reshape(rows, n_vocab)
            view.flags.writeable = False
            self._views[(address, rows)] = view
        return view

    def _describe(self, settings: Settings, header: GgufHeader) -> EngineInfo:
        vocab = self._vocab
        n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocab))
        eos = frozenset(t for t in range(n_vocab) if llama_cpp.llama_vocab_is_eog(vocab, t))
        special, added = self.tokenizer.special_texts(token_kinds(header), eos)
        rewind = 0 if self._is_recurrent else (settings.n_batch if self._n_swa else None)
        return EngineInfo(
            n_slots=settings.n_slots,
            # The library takes cells by the 256: a slot holds what was planned and told, not what that is rounded to.
            n_ctx=min(settings.n_ctx, int(llama_cpp.llama_n_ctx_seq(self._ctx))),
            max_batch_tokens=settings.n_batch,
            max_logits=max_logits(settings),
            vocab_size=n_vocab,
            eos_ids=eos,
            n_embd=int(llama_cpp.llama_model_n_embd(self._model)),
            add_bos=bool(llama_cpp.llama_vocab_get_add_bos(vocab)),
            bos_text=self.tokenizer.text(int(llama_cpp.llama_vocab_bos(vocab))),
            eos_text=self.tokenizer.text(int(llama_cpp.llama_vocab_eos(vocab))),
            chat_template=chat_template(header),
            special_texts=special,
            added_texts=added,
            rewind_tokens=rewind,
            fork_copies=True,
            batch_invariant=False,
            capabilities=frozenset({"adapters"}),
            device=LOG.devices() or "cpu",
            allocated_bytes=LOG.allocated_bytes(),
            details={
                "library": system_info(),
                **({"layers": LOG.fact("offloaded")} if settings.gpu_layers else {}),
                "buffers": "; ".join(line for line in LOG.facts if "buffer size" in line),
            },
        )


class Batch:
    """llama_batch over numpy buffers that live as long as the engine: filling it copies slices, allocates nothing."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._n_seq = np.ones(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        # seq_id[i] points at element i of _seq.
        self._seq_pointers = self._seq.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self._pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._n_seq.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._seq_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, batch: Sequence[SlotInput]) -> int:
        """Lay the entries out one after another; return the rows of logits wanted."""
        if all(len(entry.tokens) == 1 for entry in batch):
            return self._fill_single(batch)
        at = rows = 0
        for entry in batch:
            end = at + len(entry.tokens)
            self._token[at:end] = entry.tokens
            self._pos[at:end] = np.arange(entry.n_past, entry.n_past + len(entry.tokens))
            self._seq[at:end] = entry.slot
            self._wanted[at:end] = 0
            self._wanted[end - entry.n_logits : end] = 1
            rows += entry.n_logits
            at = end
        self.struct.n_tokens = at
        return rows

    def _fill_single(self, batch: Sequence[SlotInput]) -> int:
        """Decoding: one token an entry, written column by column."""
        n = len(batch)
        self._token[:n] = [entry.tokens[0] for entry in batch]
        self._pos[:n] = [entry.n_past for entry in batch]
        self._seq[:n] = [entry.slot for entry in batch]
        n_logits = [entry.n_logits for entry in batch]
        self._wanted[:n] = n_logits
        self.struct.n_tokens = n
        return sum(n_logits)
