"""Quality of a quantization: perplexity of a text, and KL divergence from a reference. Runs in a process of its own.

Teacher-forced: the text's own tokens are computed in chunks, and each next token is scored by the probability that the
model gave it. As in llama.cpp's `perplexity`, the first half of a chunk is context and the second half is scored. The
engines are used through the contract alone, so every backend works, and two at once where their vocabularies match.

    python -m edgellm.runtime.perplexity      one JSON `Job` on stdin; lines `ScoringProgress`, then `Score` or `Failed`
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from edgellm.contract.backend import worker_environment
from edgellm.contract.child import Child
from edgellm.contract.failed import Failed
from edgellm.contract.manager import plugins
from edgellm.contract.own_python import python
from edgellm.contract.parent import connect
from edgellm.errors import EdgeLLMError, UsageError, WorkerCrashed
from edgellm.runtime.checked_tokenizer import CheckedTokenizer
from edgellm.runtime.engine_check import open_engine
from edgellm.runtime.memory_limit import limit_memory
from edgellm.runtime.processor_time import WorkTime
from edgellm.runtime.work_bytes import work_bytes
from edgellm.types.plan import LaunchPlan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine

    Floats = npt.NDArray[np.float64]


class Job(msgspec.Struct, frozen=True, tag=True):
    plan: LaunchPlan
    reference: LaunchPlan | None
    text: str
    chunk: int  # tokens
    chunks: int  # most of them


class ScoringProgress(msgspec.Struct, frozen=True, tag=True):
    done: int  # chunks
    of: int
    perplexity: float


class Score(msgspec.Struct, frozen=True, tag=True):
    tokens: int  # scored
    perplexity: float
    vocab: int
    reference_perplexity: float | None = None
    mean_kl: float | None = None  # nats per token, of the reference against the model
    high_kl: float | None = None  # 99th percentile
    top_agreement: float | None = None  # share of tokens for which both have the same most likely token


def _command() -> list[str]:
    return python("edgellm.runtime.perplexity")


_decoder = msgspec.json.Decoder(ScoringProgress | Score | Failed)


def score(job: Job, progress: Callable[[ScoringProgress], None] = lambda _: None) -> Score:
    """Run a job in a process of its own.

    Raises:
        WorkerCrashed: it died. UsageError: too little text, or two vocabularies. Else what loading raised.
    """
    environment = worker_environment(plugins().backends().get(job.plan.backend))
    question = msgspec.json.encode(job)
    with Child(_command(), question=question, env=environment) as child, contextlib.suppress(msgspec.MsgspecError):
        for line in child.lines():
            match _decoder.decode(line):
                case ScoringProgress() as chunks:
                    progress(chunks)
                case Score() as result:
                    return result
                case Failed() as failed:
                    raise failed.error()
    status = f"status {child.end.returncode}"
    raise WorkerCrashed(
        f"the process that scores the model died ({status}){': ' * bool(child.end.last_words)}{child.end.last_words}",
        hint="look for memory that is short: both models are loaded at once",
        reason=status,
    )


def main() -> None:
    line, tell = connect()
    try:
        tell(_scored(msgspec.json.decode(line, type=Job), tell))
    except EdgeLLMError as error:
        tell(Failed.of(error))
    except MemoryError:
        tell(Failed("backend_unavailable", "not enough memory for the models", "score them one by one"))


def _scored(job: Job, tell: Callable[[ScoringProgress], None]) -> Score:
    plans = [job.plan] if job.reference is None else [job.plan, job.reference]
    engines: list[Engine] = []
    limit_memory(*plans)
    work_time = WorkTime(job.plan, ends=True)
    try:
        for plan in plans:
            work_time.load(work_bytes(plan))
            engines.append(open_engine(plugins().backend(plan.backend), plan))
        work_time.rest()
        return compare(engines, job, tell)
    finally:
        for engine in engines:
            engine.close()


def compare(engines: Sequence[Engine], job: Job, tell: Callable[[ScoringProgress], None]) -> Score:
    """Score the first engine, against the second where there is one.

    Raises:
        UsageError: the text fills no chunk, or the engines do not have the same tokens.
    """
    import numpy as np

    rows = min(min(engine.info.max_logits, engine.info.max_batch_tokens) for engine in engines)
    pieces = _pieces(engines, job)
    losses: list[list[float]] = [[] for _ in engines]
    kl: list[float] = []
    agreed = 0
    for number, piece in enumerate(pieces, 1):
        for parts in zip(*(_rows(engine, piece, rows) for engine in engines), strict=True):
            for own, (targets, log_probs) in zip(losses, parts, strict=True):
                own.extend((-log_probs[np.arange(len(targets)), targets]).tolist())
            if len(parts) > 1:
                (_, mine), (_, other) = parts
                kl += (np.exp(other) * (other - mine)).sum(-1).tolist()
                agreed += int((other.argmax(-1) == mine.argmax(-1)).sum())
        tell(ScoringProgress(number, len(pieces), _perplexity(losses[0])))
    first = Score(len(losses[0]), _perplexity(losses[0]), engines[0].info.vocab_size)
    if not kl:
        return first
    return msgspec.structs.replace(
        first,
        reference_perplexity=_perplexity(losses[1]),
        mean_kl=_finite(float(np.mean(kl))),
        high_kl=_finite(float(np.quantile(kl, 0.99))),
        top_agreement=agreed / len(kl),
    )


def _pieces(engines: Sequence[Engine], job: Job) -> list[list[int]]:
    """Whole chunks of the text's tokens, each with the BOS that the model wants."""
    first, *others = engines
    tokenizer = CheckedTokenizer(first.tokenizer, job.plan.backend, first.info.vocab_size)
    tokens = tokenizer.encode(job.text, add_special=False, parse_special=False)
    for other in others:
        same = other.tokenizer.encode(job.text, add_special=False, parse_special=False) == tokens
        if not same or other.info.vocab_size != first.info.vocab_size:
            raise UsageError(
                "the model and the reference do not have the same tokens",
                hint="the reference must be another quantization of the same model",
                param="against",
            )
    empty = tokenizer.encode("", add_special=True, parse_special=False)
    bos = empty[:1] if first.info.add_bos else []
    body = job.chunk - len(bos)
    pieces = [[*bos, *tokens[at : at + body]] for at in range(0, len(tokens) - body + 1, body)]
    if not pieces:
        raise UsageError(
            f"the text has {len(tokens)} tokens, a chunk has {body}", hint="give a longer text", param="perplexity"
        )
    return pieces[: job.chunks]


def _rows(engine: Engine, tokens: Sequence[int], most: int) -> Iterator[tuple[list[int], Floats]]:
    """Next tokens of the chunk's second half, and the engine's logarithms of probability: float64 (n, vocab)."""
    from edgellm.contract.engine import SlotInput

    engine.truncate(0, 0)
    at, first, last = 0, len(tokens) // 2, len(tokens) - 1
    while at < first:
        count = min(engine.info.max_batch_tokens, first - at)
        engine.step([SlotInput(0, at, tuple(tokens[at : at + count]), 0)])
        at += count
    while at < last:
        count = min(most, last - at)
        (logits,) = engine.step([SlotInput(0, at, tuple(tokens[at : at + count]), count)])
        yield list(tokens[at + 1 : at + count + 1]), _log_softmax(logits)
        at += count


def _log_softmax(rows: npt.NDArray[np.float32]) -> Floats:
    import numpy as np

    shifted = rows.astype(np.float64) - rows.max(-1, keepdims=True)
    log_probs: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probs


def _perplexity(losses: Sequence[float]) -> float:
    mean = sum(losses) / len(losses)
    return _finite(math.exp(mean)) if mean < 700 else sys.float_info.max


def _finite(value: float) -> float:
    """JSON has no infinity and no NaN: the largest float stands for both."""
    return value if math.isfinite(value) else sys.float_info.max


if __name__ == "__main__":
    main()
