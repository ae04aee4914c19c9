"""One ternary model on the native engine. Imported in a worker only."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgellm.contract.embedder import EmbeddingInfo, check_sequences, unit
from edgellm.contract.engine import SPARE_LOGITS, EngineInfo, Logits, SlotInput, Tokenizer, check_batch
from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact, option
from edgellm.formats.tokenizer import from_gguf, from_json
from edgellm.formats.tokenizer.tokenizer import FileTokenizer as VocabularyTokenizer
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_bitnet import native, packing
from edgellm_bitnet.footprint import BATCH
from edgellm_bitnet.loading import Loaded, load
from edgellm_bitnet.matrix import BF16, CACHE_ALIGN, F16, F32, NAMES, PANEL, padded
from edgellm_bitnet.options import Options
from edgellm_bitnet.sides import Sides
from edgellm_bitnet.weights import GgufWeights, Weights, needed

KV_TYPES = {"f16": native.KV_F16, "q8_0": native.KV_I8, "f32": native.KV_F32}
CACHE_LAYOUT = 3  # raised where the bytes of a saved slot come to mean something else
GATES = {"relu2": native.RELU2, "silu": native.SILU, "gelu": native.GELU}
STATE_KEY_BYTES = 16
PREFILL_TOKENS = 16  # steps of more tokens use the threads of prefill


class BitnetEngine:
    """A loaded model and its cache; slots are rows of the cache."""

    def __init__(self, weights: Weights, tokenizer: Tokenizer, settings: Settings, options: Options) -> None:
        self._kv_type = options.cache or settings.kv_type
        if self._kv_type not in KV_TYPES:
            raise UnsupportedArtifact(
                f"cache type {self._kv_type!r} is not computed with", hint=f"one of {', '.join(KV_TYPES)}"
            )
        self._lib = native.library()
        self._engine: int | None = None
        self._memory: tuple[int, int] | None = None
        self._settings, self._weights = settings, weights
        _check_blocks(weights, options.act_block)
        threads = max(settings.n_threads, settings.n_threads_batch)
        self._loaded = load(weights, options.head, threads, keep=options.keep_packed, may_map=settings.mmap)
        try:
            self._isa = native.isa_index(options.isa)
            self._model = self._describe_model(options)
            self._cache = self._new_cache()
            self._engine = self._lib.bn_engine_new(self._model, self._cache, self._isa, BATCH, threads)
            if not self._engine:
                raise BackendUnavailable(
                    "out of memory or threads for the ternary engine", hint=f"ask for less with {option('ctx')}"
                )
        except Exception:
            self.close()
            raise
        self._sides = Sides(self._lib, self._engine, weights)
        self.tokenizer = tokenizer
        self._n_past = [0] * settings.n_slots
        rows = settings.n_slots + SPARE_LOGITS
        self._logits = np.zeros((rows, padded(weights.architecture.vocab, PANEL)), np.float32)
        self._feed = _Feed(settings.n_batch)
        self.info = self._describe(tokenizer, rows)

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        """See `edgellm.contract.engine.Engine.step`."""
        check_batch(batch, self.info, self._n_past)
        self._sides.use(batch[0].adapters)
        feed, total = self._feed, 0
        for entry in batch:
            total = feed.add(total, entry.slot, entry.n_past, entry.tokens, entry.n_logits)
        settings = self._settings
        threads = settings.n_threads_batch if total > PREFILL_TOKENS else settings.n_threads
        self._lib.bn_step(self._engine, total, *feed.addresses, threads, self._logits.ctypes.data)
        rows, at, vocab = [], 0, self.info.vocab_size
        for entry in batch:
            self._n_past[entry.slot] = entry.n_past + len(entry.tokens)
            if entry.n_logits:
                view = self._logits[at : at + entry.n_logits, :vocab]
                view.flags.writeable = False
                rows.append(view)
                at += entry.n_logits
        return rows

    def truncate(self, slot: int, n_tokens: int) -> int:
        """See `Engine.truncate`. A position is a row of the cache, so any length can be kept."""
        self._n_past[slot] = min(n_tokens, self._n_past[slot])
        return self._n_past[slot]

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        """See `Engine.fork`."""
        kept = min(n_tokens, self._n_past[source])
        if source != target:
            self._lib.bn_fork(self._engine, source, target, kept)
        self._n_past[target] = kept
        return kept

    def load_adapter(self, name: str, path: str) -> None:
        """See `edgellm.contract.engine.AdapterLoader`."""
        self._sides.load(name, path)

    def drop_adapter(self, name: str) -> None:
        """See `AdapterLoader`."""
        self._sides.drop(name)

    def save_slot(self, slot: int) -> bytes:
        """The slot's cache as bytes, the same on every processor; `load_slot` of an engine of this model takes them."""
        n = self._n_past[slot]
        room = np.empty(self._lib.bn_slot_bytes(self._engine, n), np.uint8)
        self._lib.bn_slot_save(self._engine, slot, n, room.ctypes.data)
        return self._state_key() + n.to_bytes(4, "little") + room.tobytes()

    def load_slot(self, slot: int, state: bytes) -> int:
        """Put a saved state in place of the slot's own; return its tokens.

        Raises:
            ValueError: it is not a state of this model and cache type, or has more tokens than a slot.
        """
        key, at = self._state_key(), STATE_KEY_BYTES + 4
        n = int.from_bytes(state[STATE_KEY_BYTES:at], "little")
        whole = (
            len(state) >= at and n <= self.info.n_ctx and len(state) - at == self._lib.bn_slot_bytes(self._engine, n)
        )
        if not whole or state[:STATE_KEY_BYTES] != key:
            raise ValueError(
                f"{len(state)} bytes are not a state of this model that fits a slot of {self.info.n_ctx} tokens"
            )
        room = np.frombuffer(state, np.uint8, offset=at)
        self._lib.bn_slot_load(self._engine, slot, n, room.ctypes.data)
        self._n_past[slot] = n
        return n

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """float32 (len(sequences), n_embd) of unit length, pooled as the model says. Uses a slot of its own.

        Raises:
            CacheFull: a sequence is longer than the context. ValueError: an empty one, or an id that there is not.
        """
        check_sequences(sequences, self.info.vocab_size, self.info.n_ctx)
        self._sides.use(())
        pooled = np.zeros((len(sequences), self.info.n_embd), np.float32)
        slot = self._settings.n_slots  # one more than the runtime knows
        for index, tokens in enumerate(sequences):
            pooled[index] = self._pool(slot, tuple(tokens))
        return unit(pooled)

    def close(self) -> None:
        """Free everything."""
        if self._engine:
            self._lib.bn_engine_free(self._engine)
            self._engine = None
        if self._memory:
            self._lib.bn_memory_free(*self._memory)
            self._memory = None
        self._loaded.arena.close()

    def _state_key(self) -> bytes:
        """What a slot's state belongs to: two models of one shape differ in their norms."""
        weights, arch = self._weights, self._weights.architecture
        norm = weights.vector("output_norm.weight", arch.hidden)
        about = f"{arch} {self._kv_type} {CACHE_LAYOUT} {self._model.act_block}".encode()
        return hashlib.sha256(about + (b"" if norm is None else norm.tobytes())).digest()[:STATE_KEY_BYTES]

    def _pool(self, slot: int, tokens: tuple[int, ...]) -> npt.NDArray[np.float32]:
        pooling, n = self._weights.architecture.pooling, len(tokens)
        every = pooling == "mean"
        rows = []
        for start in range(0, n, self._feed.capacity):
            piece = tokens[start : start + self._feed.capacity]
            n_rows = len(piece) if every else int(start + len(piece) == n)
            total = self._feed.add(0, slot, start, piece, n_rows)
            if pooling == "cls":
                self._feed.wants[:total] = 0
                self._feed.wants[0] = n_rows = int(start == 0)
            out = np.zeros((n_rows, self.info.n_embd), np.float32)
            threads = self._settings.n_threads_batch
            self._lib.bn_hidden(self._engine, total, *self._feed.addresses, threads, out.ctypes.data)
            rows.append(out)
        return np.asarray(np.concatenate(rows).mean(axis=0), np.float32)

    def _describe_model(self, options: Options) -> native.Model:
        arch, loaded = self._weights.architecture, self._loaded
        self._rope = packing.rope_tables(self._weights, padded(self._settings.n_ctx, CACHE_ALIGN))
        self._layers = (native.Layer * arch.layers)(*(self._layer(loaded, index) for index in range(arch.layers)))
        head = loaded.arena.matrix(loaded.layout.slabs["head"])
        return native.Model(
            layers=arch.layers, hidden=arch.hidden, ffn=arch.ffn, heads=arch.heads, kv_heads=arch.kv_heads,
            head_dim=arch.head_dim, vocab=arch.vocab, rope_dim=arch.rope_dim,
            gate=GATES[arch.family.gate], act_block=options.act_block, eps=arch.eps, query_scale=arch.query_scale,
            embed_scale=arch.embed_scale, layer=self._layers, embed=self._embed(head), head=head,
            output_norm=loaded.arena.address_of(loaded.layout, "output_norm"),
        )  # fmt: skip

    def _embed(self, head: native.Matrix) -> native.Matrix:
        """Rows of the embedding: of the packed one, of the head where they are one, else of the model's own file."""
        if "embed" in self._loaded.layout.slabs:
            return self._loaded.arena.matrix(self._loaded.layout.slabs["embed"])
        arch = self._weights.architecture
        raw = needed(self._weights, "token_embd.weight", arch.vocab, arch.hidden)
        kind = {"F32": F32, "F16": F16, "BF16": BF16}.get(raw.type)
        tied = packing.head_name(self._weights) == raw.name
        if kind is None or (tied and kind == head.kind):
            return head
        # A file's alignment may be a byte; native code reads whole numbers.
        self._embedding = raw.data if raw.data.ctypes.data % 4 == 0 else raw.data.copy()
        return native.Matrix(kind, raw.rows, raw.cols, 0, self._embedding.ctypes.data, None, None)

    def _layer(self, loaded: Loaded, index: int) -> native.Layer:
        arch, arena, where = self._weights.architecture, loaded.arena, loaded.layout
        layer = native.Layer()
        for name in native.NORMS:
            setattr(layer, name, arena.address_of(where, f"{index}.{name}"))
        for at, name in enumerate(native.INPUTS):
            layer.in_norm[at] = arena.address_of(where, f"{index}.in.{name}")
        for name in ("qkv", "output", "gate_up", "down"):
            setattr(layer, name, arena.matrix(where.slabs[f"{index}.{name}"]))
        local = arch.is_local(index)
        table = self._rope[1] if local else self._rope[0]
        assert table is not None
        layer.rope, layer.window = table.ctypes.data, arch.window if local else 0
        return layer

    def _new_cache(self) -> native.Cache:
        settings = self._settings
        slots = settings.n_slots + bool(self._weights.architecture.pooling)
        context, kind = padded(settings.n_ctx, CACHE_ALIGN), KV_TYPES[self._kv_type]
        n_bytes = self._lib.bn_cache_bytes(self._model, kind, slots, context)
        memory = self._lib.bn_memory_new(n_bytes)
        if not memory:
            raise BackendUnavailable(
                f"no memory for a cache of {n_bytes} bytes",
                hint=f"ask for less with {option('ctx')} or {option('slots')}",
            )
        self._memory = (memory, n_bytes)
        return native.Cache(kind, slots, context, memory)

    def _describe(self, tokenizer: Tokenizer, rows: int) -> EngineInfo:
        arch, settings = self._weights.architecture, self._settings
        slab = self._loaded.layout.slabs["head"]
        capabilities = {"save_slot"} | ({"embed"} if arch.pooling else {"adapters"})
        return EngineInfo(
            n_slots=settings.n_slots, n_ctx=settings.n_ctx, max_batch_tokens=settings.n_batch,
            max_logits=min(settings.n_batch, rows), vocab_size=arch.vocab,
            eos_ids=frozenset(getattr(tokenizer, "eos_ids", ())), n_embd=arch.hidden,
            add_bos=bool(getattr(tokenizer, "add_bos", False)), bos_text=getattr(tokenizer, "bos_text", ""),
            eos_text=getattr(tokenizer, "eos_text", ""), chat_template=getattr(tokenizer, "chat_template", None),
            response_template=getattr(tokenizer, "response_template", ""),
            special_texts=getattr(tokenizer, "special_texts", ()), added_texts=getattr(tokenizer, "added_texts", ()),
            rewind_tokens=None, fork_copies=True, batch_invariant=True, capabilities=frozenset(capabilities),
            embedding=EmbeddingInfo(arch.pooling) if arch.pooling else None,
            details={
                "kernels": list(native.isas())[self._isa], "weights": self._loaded.how,
                "pages": self._loaded.arena.pages(), "head": NAMES[slab.kind], "library": str(native.path()),
            },
        )  # fmt: skip


def _check_blocks(weights: Weights, block: int) -> None:
    """Raises UnsupportedArtifact: activations cannot be cut into blocks."""
    arch = weights.architecture
    for cols in (arch.hidden, arch.q_cols, arch.ffn):
        if block and cols % block:
            raise UnsupportedArtifact(
                f"{weights.where}: activations=block: rows of {cols} weights are not a multiple of {block}",
                hint="activations=token takes any",
            )


class _Feed:
    """The arrays of a batch, as long as the engine lives."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens, self.slots, self.positions = (np.zeros(capacity, np.int32) for _ in range(3))
        self.wants = np.zeros(capacity, np.uint8)
        arrays: tuple[npt.NDArray[np.generic], ...] = (self.tokens, self.slots, self.positions, self.wants)
        self.addresses = [ctypes.c_void_p(array.ctypes.data) for array in arrays]

    def add(self, at: int, slot: int, n_past: int, tokens: tuple[int, ...], n_logits: int) -> int:
        end = at + len(tokens)
        self.tokens[at:end] = tokens
        self.slots[at:end] = slot
        self.positions[at:end] = np.arange(n_past, n_past + len(tokens))
        self.wants[at:end] = 0
        self.wants[end - n_logits : end] = 1
        return end


def open_engine(plan: LaunchPlan, options: Options) -> BitnetEngine:
    """From a plan to an engine: the reader that the artifact needs, its tokenizer, and that both agree.

    Raises:
        BadArtifact, UnsupportedArtifact, BackendUnavailable.
        OSError: the library does not load.
    """
    weights, tokenizer = _read(plan, options)
    vocab = weights.architecture.vocab
    if tokenizer.n_tokens > vocab:
        raise BadArtifact(
            f"{weights.where}: the tokenizer has {tokenizer.n_tokens} tokens, the embedding {vocab} rows",
            hint="the file's tokenizer belongs to another model",
        )
    return BitnetEngine(weights, tokenizer, plan.settings, options)


def _read(plan: LaunchPlan, options: Options) -> tuple[Weights, VocabularyTokenizer]:
    if plan.artifact.format == "gguf":
        weights = GgufWeights(plan.artifact.path, options.i2s_layout)
        return weights, from_gguf.read_tokenizer(weights.model.header)
    from edgellm_bitnet.folder import FolderWeights

    return FolderWeights(plan.artifact.path), from_json.read_tokenizer_json(plan.artifact.path)
