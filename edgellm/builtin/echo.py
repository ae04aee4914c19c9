"""The built-in backend without a model: it says the prompt back. For demos, for work on the page, as an example.

The "model" is exact: its vocabulary is the 256 bytes and an end token, and the logits after the n-th token of the
answer point at the n-th token of the prompt. So batching, prefix reuse and stopping can be checked without arithmetic.
The vector of a text counts its bytes, at unit length; a document's score is how near it is to the query.

EDGELLM_ECHO_STEP_S    seconds each step takes, as with a slow model (default 0)
EDGELLM_ECHO_LOAD_S    seconds loading takes (default 0)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice
from edgellm.contract.embedder import EmbeddingInfo, Pair, check_sequences
from edgellm.contract.engine import EngineInfo, SlotInput, check_batch
from edgellm.contract.hookspecs import hookimpl
from edgellm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.backend import Backend
    from edgellm.contract.engine import Engine, Logits
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact
    from edgellm.types.plan import Footprint, LaunchPlan, Settings

DELAYS = ("EDGELLM_ECHO_STEP_S", "EDGELLM_ECHO_LOAD_S")
END = 256  # ends the prompt, starts the answer, and ends the answer
VOCAB = 257
TEMPLATE = "{{ messages[-1]['content'] }}"
# No other token is ever drawn at temperature 1: each is e**100 times less likely.
CERTAIN = 100.0


class ByteTokenizer:
    """One token a byte."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return [*text.encode("utf-8", "replace"), END] if add_special else list(text.encode("utf-8", "replace"))

    def token_bytes(self, token: int) -> bytes:
        return bytes((token,)) if token < END else b""

    def text(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace") or "<end>"

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        return [*(bytes((byte,)) for byte in range(END)), b"<end>"], frozenset({END})


class EchoEngine:
    """Slots are lists of tokens. `delay_s` makes each step take as long as a slow model's."""

    def __init__(self, settings: Settings, delay_s: float = 0.0) -> None:
        self._slots: list[list[int]] = [[] for _ in range(settings.n_slots)]
        self._delay_s = delay_s
        self.tokenizer = ByteTokenizer()
        self.info = EngineInfo(
            n_slots=settings.n_slots,
            n_ctx=settings.n_ctx,
            max_batch_tokens=settings.n_batch,
            max_logits=settings.n_batch,
            vocab_size=VOCAB,
            eos_ids=frozenset({END}),
            add_bos=True,
            chat_template=TEMPLATE,
            batch_invariant=True,
            n_embd=VOCAB - 1,
            capabilities=frozenset({"embed", "rerank"}),
            embedding=EmbeddingInfo("mean"),
            details={"library": "none: the prompt is the answer"},
        )

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        check_batch(batch, self.info, [len(tokens) for tokens in self._slots])
        if self._delay_s:
            time.sleep(self._delay_s)
        logits = []
        for entry in batch:
            self._slots[entry.slot].extend(entry.tokens)
            if entry.n_logits:
                logits.append(self._logits(self._slots[entry.slot], entry.n_logits))
        return logits

    def _logits(self, tokens: list[int], n_logits: int) -> Logits:
        import numpy as np

        rows = np.zeros((n_logits, VOCAB), np.float32)
        for row in range(n_logits):
            rows[row, _next(tokens[: len(tokens) - n_logits + row + 1])] = CERTAIN
        rows.flags.writeable = False
        return rows

    def embed(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Counts of bytes, at unit length. The end token counts for nothing, and alone gives zeros."""
        import numpy as np

        check_sequences(sequences, VOCAB, self.info.n_ctx)
        if self._delay_s:
            time.sleep(self._delay_s)
        counts = np.stack([np.bincount(tokens, minlength=VOCAB)[:END] for tokens in sequences])
        return np.asarray(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1), np.float32)

    def pair(self, query: str, document: str) -> Pair:
        """Query, end, document."""
        first = self.tokenizer.encode(query, add_special=True, parse_special=False)
        second = self.tokenizer.encode(document, add_special=False, parse_special=False)
        return Pair((*first, *second), len(first))

    def rerank(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """Cosine of the counts of both."""
        import numpy as np

        queries = self.embed([pair.tokens[: pair.n_first] for pair in pairs])
        documents = self.embed([pair.tokens[pair.n_first :] or (END,) for pair in pairs])
        return np.asarray((queries * documents).sum(axis=1), np.float32)

    def truncate(self, slot: int, n_tokens: int) -> int:
        del self._slots[slot][n_tokens:]
        return len(self._slots[slot])

    def fork(self, source: int, target: int, n_tokens: int) -> int:
        self._slots[target] = self._slots[source][:n_tokens]
        return len(self._slots[target])

    def close(self) -> None:
        self._slots = []


def _next(tokens: list[int]) -> int:
    """The token after `tokens`: prompt, END, and as much of the answer as there is."""
    if END not in tokens:
        return END
    at = tokens.index(END)
    prompt, answered = tokens[:at], len(tokens) - at - 1
    return prompt[answered] if answered < len(prompt) else END


class EchoBackend:
    """Registered as "echo"; its artifacts have no files."""

    name = "echo"
    formats = frozenset({"echo"})
    quants: frozenset[str] | None = frozenset()

    def check(self, machine: Machine) -> list[str]:
        problems = []
        for name in DELAYS:
            try:
                _seconds(name)
            except UsageError as error:
                problems.append(error.message)
        return problems

    def advise(self, machine: Machine) -> list[Advice]:
        return [Advice(problem, "mend or unset it") for problem in self.check(machine)]

    def supports(self, artifact: Artifact) -> list[str]:
        return [] if artifact.format == "echo" else [f"format {artifact.format!r} is not echo"]

    def footprint(self, artifact: Artifact, settings: Settings) -> Footprint:
        from edgellm.types.plan import Footprint

        return Footprint(weights_bytes=0, kv_bytes=0, compute_bytes=0, process_bytes=32 * 1024**2, exact=False)

    def open(self, plan: LaunchPlan) -> Engine:
        step_s, load_s = map(_seconds, DELAYS)
        time.sleep(load_s)
        return EchoEngine(plan.settings, step_s)

    def describe(self) -> dict[str, str]:
        return {"library": "none"}


def _seconds(name: str) -> float:
    value = os.environ.get(name, "0")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 60.0:
        raise UsageError(f"{name}={value!r} is not a number of seconds from 0 to 60", hint="mend or unset it")
    return seconds


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    register(EchoBackend())
