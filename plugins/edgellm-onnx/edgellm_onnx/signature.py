"""A decoder's inputs and outputs, as its graph declares them, or the reason why it cannot be run.

input_ids [batch, tokens]   attention_mask [batch, cells]   position_ids [batch, tokens]   use_cache_branch [1]
past_key_values.N.key [batch, heads, cells, dim] -> present.N.key      (and .value; other names by genai_config.json)
logits [batch, rows, vocabulary]; rows = tokens, or as many as the optional input num_logits asks for
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from edgellm.errors import UnsupportedArtifact
from edgellm_onnx.reader.folder import OnnxFolder
from edgellm_onnx.reader.graph import OnnxGraph, Value

CACHE_TYPES = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes
UNUSED = "int64"  # type of what is allocated for an input that a graph does not have
LOGIT_TYPES = ("float32", "float16")
MAX_LAYERS = 1024
ROPE_ROWS = 7  # input of GroupQueryAttention that holds the cosines, a row for each position
MASTER = "past_key_values.%d.key", "past_key_values.%d.value", "present.%d.key", "present.%d.value"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Keys or values of one layer."""

    past: str
    present: str
    heads: int
    dim: int


@dataclass(frozen=True, slots=True)
class Signature:
    """A decoder's inputs and outputs. Names are "" where the graph has no such input."""

    entries: tuple[CacheEntry, ...]
    cache_type: str  # key of CACHE_TYPES
    shared: bool  # attention writes into the cache it reads: past and present are one buffer of fixed length
    batches: bool  # takes several rows
    single: bool  # takes one token a step only
    vocab: int
    logits: str
    logits_type: str
    ids: str
    ids_type: str
    mask: str  # "" = the graph has none, and no type of it
    mask_type: str
    positions: str  # as `mask`
    positions_type: str
    branch: str  # bool [1]: whether there is a cache
    num_logits: str  # int64
    num_logits_rank: int
    rope_rows: int  # positions that the graph has angles for; 0 = as many as are asked for

    @property
    def token_bytes(self) -> int:
        """Of the cache, for one token."""
        return sum(entry.heads * entry.dim for entry in self.entries) * CACHE_TYPES[self.cache_type]


def read_signature(graph: OnnxGraph, folder: OnnxFolder, *, starts: bool = False) -> Signature:
    """`starts`: of a graph that has no cache to read, only one to write.

    Raises:
        UnsupportedArtifact: an input, an output or a shape that nothing here knows how to serve.
    """
    return _Reader(graph, folder, starts).read()


class _Reader:
    def __init__(self, graph: OnnxGraph, folder: OnnxFolder, starts: bool) -> None:
        self._graph, self._folder, self._starts = graph, folder, starts
        decoder = folder.genai_section("model", "decoder")
        self._names = {**_texts(decoder.get("inputs")), **_texts(decoder.get("outputs"))}

    def read(self) -> Signature:
        graph = self._graph
        ids = self._input("input_ids", 2, needed=True)
        mask = self._input("attention_mask", 2)
        positions = self._input("position_ids", 2)
        branch = self._input("use_cache_branch", 1)
        count = graph.inputs.get("num_logits")
        logits = graph.outputs.get(self._names.get("logits", "logits"))
        if ids is None:
            self._refuse("has no input of token ids", "is it a model that generates text?")
        if logits is None or len(logits.dims) != 3:
            self._refuse("has no output logits of [batch, rows, vocabulary]", "is it a model that generates text?")
        entries, cache_type = self._entries()
        fed = {value.name for value in (ids, mask, positions, branch, count) if value is not None}
        fed |= {entry.past for entry in entries}
        unknown = sorted(graph.inputs.keys() - fed - graph.initializers.keys())
        if unknown:
            self._refuse(f"asks for {', '.join(unknown[:5])}", "nothing here knows what to give it")
        if logits.dtype not in LOGIT_TYPES or not isinstance(logits.dims[2], int) or logits.dims[2] < 1:
            self._refuse(f"gives logits {logits.dtype} {list(logits.dims)}", f"{' or '.join(LOGIT_TYPES)} are read")
        shared, rope_rows = self._attention(entries)
        return Signature(
            entries=entries, cache_type=cache_type, shared=shared, rope_rows=rope_rows,
            batches=shared and not isinstance(ids.dims[0], int),
            single=ids.dims[1] == 1, vocab=logits.dims[2], logits=logits.name, logits_type=logits.dtype,
            ids=ids.name, ids_type=ids.dtype, **_named("mask", mask), **_named("positions", positions),
            branch=branch.name if branch else "",
            num_logits=count.name if count else "", num_logits_rank=len(count.dims) if count else 0,
        )  # fmt: skip

    def _input(self, name: str, rank: int, *, needed: bool = False) -> Value | None:
        value = self._graph.inputs.get(self._names.get(name, name))
        if value is None:
            if needed:
                self._refuse(f"has no input {name}", "is it a model that generates text?")
            return None
        types = ("bool",) if name == "use_cache_branch" else ("int64", "int32")
        if value.dtype not in types or len(value.dims) != rank:
            shape = ", ".join(map(str, value.dims))
            self._refuse(f"takes {name} as {value.dtype} [{shape}]", f"{' or '.join(types)} of {rank} axes are given")
        return value

    def _entries(self) -> tuple[tuple[CacheEntry, ...], str]:
        graph, names = self._graph, self._names
        keys = ("past_key_names", "past_value_names", "present_key_names", "present_value_names")
        patterns = [names.get(key, usual) for key, usual in zip(keys, MASTER, strict=True)]
        entries, types = [], set()
        for layer in range(MAX_LAYERS):
            for past, present in (patterns[::2], patterns[1::2]):
                value = graph.inputs.get(_number(past, layer))
                output = graph.outputs.get(_number(present, layer))
                shaped = output if self._starts else value
                if shaped is None or output is None:
                    continue
                heads, dim = self._cell(shaped)
                types.add(shaped.dtype)
                entries.append(CacheEntry("" if self._starts else shaped.name, output.name, heads, dim))
        if not entries:
            self._refuse("keeps no cache (past_key_values, present)", "export it with its cache")
        if len(types) > 1 or not types <= CACHE_TYPES.keys():
            self._refuse(f"keeps its cache as {', '.join(sorted(types))}", f"one of {', '.join(CACHE_TYPES)} is kept")
        return tuple(entries), types.pop()

    def _cell(self, value: Value) -> tuple[int, int]:
        """Heads and their dimension, from the graph or, where it has only names for them, from the configuration."""
        if len(value.dims) != 4:
            self._refuse(f"keeps {value.name} in {len(value.dims)} axes", "[batch, heads, cells, dim] is known here")
        decoder, config = self._folder.genai_section("model", "decoder"), self._folder.config
        heads = value.dims[1], decoder.get("num_key_value_heads"), config.get("num_key_value_heads")
        dims = value.dims[3], decoder.get("head_size"), config.get("head_dim")
        sizes = [next((n for n in some if isinstance(n, int) and 0 < n < 2**16), 0) for some in (heads, dims)]
        if not all(sizes):
            self._refuse(f"has no numbers of heads and dimensions for {value.name}", "its config.json tells them")
        return sizes[0], sizes[1]

    def _attention(self, entries: tuple[CacheEntry, ...]) -> tuple[bool, int]:
        """Whether every cache is read by GroupQueryAttention, which writes in place, and the angles it has."""
        readers = {}
        for node in self._graph.nodes:
            if node.op == "GroupQueryAttention" and node.domain == "com.microsoft" and not node.inside:
                readers.update(dict.fromkeys(node.inputs[3:5], node))
        if not entries[0].past or not all(entry.past in readers for entry in entries):
            return False, 0
        angles = {node.inputs[ROPE_ROWS] for node in readers.values() if len(node.inputs) > ROPE_ROWS}
        rows = [self._graph.initializers[name].dims[0] for name in angles if name in self._graph.initializers]
        return True, min(rows, default=0)

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise UnsupportedArtifact(f"{self._graph.where} {what}", hint=hint)


def _texts(section: object) -> dict[str, str]:
    names = section if isinstance(section, dict) else {}
    return {str(key): value for key, value in names.items() if isinstance(value, str)}


def _number(pattern: str, layer: int) -> str:
    return re.sub("%d", str(layer), pattern, count=1)


def _named(role: str, value: Value | None) -> dict[str, str]:
    return {role: value.name if value else "", f"{role}_type": value.dtype if value else ""}
