"""A model of sixteen tokens whose logits are a hash of all tokens before: a wrong or stale cache changes every answer.
With adapters their names and scales are hashed, too.

Its arithmetic does not depend on the batch, so what the runtime makes of it is exact. `answer` generates without
runtime, scheduler and cache, and is what the runtime is compared with.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from edgellm.contract.engine import EngineInfo, SlotInput
from edgellm.errors import CacheFull
from edgellm.text.sampling import Sampler
from edgellm.types.adapter import AdapterSet, adapter_set
from edgellm.types.request import GenerationRequest

if TYPE_CHECKING:
    from edgellm.contract.engine import Logits

EOS, BOS = 0, 1
# Letters, words, and characters of two and four bytes in halves, so that stop strings and characters cross tokens.
PIECES = (
    b"", b"", b"a", b"b", b"ab", b"ba", b" ", b"\n",
    b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82", b"\xc3\xa9", b"c", b"abc", b".",
)  # fmt: skip
VOCAB = len(PIECES)
NONE: Mapping[str, str] = MappingProxyType({})


class ToyTokenizer:
    """One token a byte; the mapping does not matter, it only has to be the same every time."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return [BOS] * add_special + [2 + byte % (VOCAB - 2) for byte in text.encode()]

    def token_bytes(self, token: int) -> bytes:
        return PIECES[token]

    def text(self, token: int) -> str:
        return {EOS: "<eos>", BOS: "<bos>"}.get(token) or PIECES[token].decode("utf-8", "replace")

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return [b"<eos>", b"<bos>", *PIECES[2:]], frozenset({EOS, BOS})


class ToyEngine:
    """Slots are lists of tokens. `before_step` may raise what a real engine raises."""

    def __init__(
        self,
        *,
        n_slots: int = 3,
        n_ctx: int = 256,
        n_batch: int = 32,
        rewind: int | None = None,
        fork_copies: bool = False,
        adapters: bool = False,
        mixes_adapters: bool = False,
        before_step: Callable[[ToyEngine, Sequence[SlotInput]], None] | None = None,
    ) -> None:
        self.slots: list[list[int]] = [[] for _ in range(n_slots)]
        self.adapters: dict[str, str] = {}  # name -> what is in its file
        self.computed_with: list[AdapterSet] = [()] * n_slots
        self.steps: list[tuple[SlotInput, ...]] = []
        self.forks = 0
        self.tokenizer = ToyTokenizer()
        self.before_step = before_step
        self.info = EngineInfo(
            n_slots=n_slots, n_ctx=n_ctx, max_batch_tokens=n_batch, max_logits=max(n_slots, n_batch), vocab_size=VOCAB,
            eos_ids=frozenset({EOS}), rewind_tokens=rewind, fork_copies=fork_copies, batch_invariant=True,
            capabilities=frozenset({"adapters"} if adapters else ()), mixes_adapters=mixes_adapters,
        )  # fmt: skip

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        for entry in batch:
            if entry.n_past + len(entry.tokens) > self.info.n_ctx:
                raise CacheFull(f"slot {entry.slot} is full")
            assert entry.tokens
            assert entry.n_past == len(self.slots[entry.slot])
        assert len({entry.slot for entry in batch}) == len(batch)
        assert sum(len(entry.tokens) for entry in batch) <= self.info.max_batch_tokens
        assert sum(entry.n_logits for entry in batch) <= self.info.max_logits
        assert self.info.mixes_adapters or len({entry.adapters for entry in batch}) == 1
        for entry in batch:
            assert not entry.n_past or self.computed_with[entry.slot] == entry.adapters, "another set's cache is read"
            assert all(name in self.adapters for name, _ in entry.adapters)
        if self.before_step is not None:
            self.before_step(self, batch)
        self.steps.append(tuple(batch))
        for entry in batch:
            self.slots[entry.slot].extend(entry.tokens)
            self.computed_with[entry.slot] = entry.adapters
        return [self._rows(entry) for entry in batch if entry.n_logits]

    def truncate(self, slot: int, n_tokens: int) -> int:
        tokens = self.slots[slot]
        lost = len(tokens) - n_tokens
        if self.info.rewind_tokens is not None and lost > self.info.rewind_tokens:
            n_tokens = 0
        del tokens[n_tokens:]
        return len(tokens)

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self.forks += 1
        self.slots[target], self.computed_with[target] = list(self.slots[source]), self.computed_with[source]
        return self.truncate(target, n_tokens)

    def load_adapter(self, name: str, path: str) -> None:
        assert name not in self.adapters
        self.adapters[name] = Path(path).read_text()

    def drop_adapter(self, name: str) -> None:
        del self.adapters[name]

    def close(self) -> None:
        self.slots = []

    def _rows(self, entry: SlotInput) -> Logits:
        tokens, contents = self.slots[entry.slot], {name: self.adapters[name] for name, _ in entry.adapters}
        ends = range(len(tokens) - entry.n_logits + 1, len(tokens) + 1)
        rows = np.stack([logits_after(tokens[:end], entry.adapters, contents) for end in ends])
        rows.flags.writeable = False
        return rows


def logits_after(tokens: Sequence[int], adapters: AdapterSet = (), contents: Mapping[str, str] = NONE) -> Logits:
    """float32 (VOCAB,), read only."""
    asked = bytes(tokens) + (f"{adapters}{contents}".encode() if adapters else b"")
    row = np.random.default_rng(zlib.crc32(asked)).standard_normal(VOCAB).astype(np.float32) * 3
    row[[EOS, BOS]] -= 3  # answers of some length
    row.flags.writeable = False
    return row


def answer(
    request: GenerationRequest, n_ctx: int = 256, choice: int = 0, contents: Mapping[str, str] = NONE
) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens that `request` must get, whatever runs beside it.

    `contents`: of the files of adapters, by name.
    """
    adapters = adapter_set(request.adapters or ())
    used = {name: contents[name] for name, _ in adapters}
    assert isinstance(request.prompt, str)
    prompt = ToyTokenizer().encode(request.prompt, add_special=request.add_bos, parse_special=True)
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = structs.replace(sampling, seed=sampling.seed + choice)
    sampler = Sampler(sampling, prompt)
    limit = min(request.max_tokens or n_ctx, n_ctx - len(prompt) + 1)
    said: list[int] = []
    while True:
        token = sampler.sample(logits_after(prompt + said, adapters, used))
        if token == EOS and not request.ignore_eos:
            return _text(said), "stop", len(said)
        said.append(token)
        text, stopped = until_stop(_text(said, whole=False), request.stop)
        if stopped:
            return text, "stop", len(said)
        if len(said) == limit:
            return text, "length", len(said)


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Text before the stop string that is complete first, and whether there is one."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def _text(tokens: Sequence[int], *, whole: bool = True) -> str:
    """`whole`: the answer ends here, so half a character is a broken one and no longer waits."""
    data = b"".join(PIECES[token] for token in tokens)
    if whole:
        return data.decode("utf-8", "replace")
    import codecs

    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)
