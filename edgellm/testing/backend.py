"""The conformance test of a backend, for plugin authors. Subclass `BackendContract` in a test module:

    class TestMine(BackendContract):
        def plan(self) -> LaunchPlan:
            return LaunchPlan("mine", Artifact("my-format", (MODEL,), "tiny"), Settings(n_ctx=256, n_slots=3))

and run pytest. For an engine with capability "embed" there is `EmbedderContract`, with the same `plan`.

The plan needs at least 3 slots of at least 256 tokens, a batch of at least 64, and a model that is
quick: each test opens nothing, all share one engine per class.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from edgellm.contract.backend import Offloader
from edgellm.contract.engine import SlotInput
from edgellm.contract.manager import plugins
from edgellm.errors import ArtifactError, BackendError, CacheFull
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.types.event import Delta, Done
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.request import GenerationRequest, Sampling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.backend import Backend
    from edgellm.contract.engine import Engine
    from edgellm.types.plan import LaunchPlan


TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Rain fell on the harbour all night; by morning every boat was full of water.",
    "Grüße aus Köln: zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 你好 🙂",
)


class BackendContract:
    """What every backend must do, whatever it computes with.

    Attributes:
        tolerance: largest difference of a logit between batched and isolated computation. 0.0 = bit for bit, which is
            required where `info.batch_invariant` says so.
        leak_requests: short requests run to see that memory stays flat.
        leak_bytes: growth allowed over them.
    """

    tolerance: ClassVar[float] = 0.0
    leak_requests: ClassVar[int] = 1000
    leak_bytes: ClassVar[int] = 16 * 1024**2

    def plan(self) -> LaunchPlan:
        """The plan to test with."""
        raise NotImplementedError(f"{type(self).__name__} must define plan()")

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls) -> LaunchPlan:
        return cls().plan()

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, launch_plan: LaunchPlan) -> Backend:
        return plugins().backend(launch_plan.backend)

    @pytest.fixture(scope="class")
    @classmethod
    def shared_engine(cls, backend: Backend, launch_plan: LaunchPlan) -> Iterator[Engine]:
        engine = backend.open(launch_plan)
        yield engine
        engine.close()
        engine.close()

    @pytest.fixture
    def engine(self, shared_engine: Engine) -> Engine:
        """The class's engine with empty slots."""
        for slot in range(shared_engine.info.n_slots):
            assert shared_engine.truncate(slot, 0) == 0
        return shared_engine

    def test_opens_only_its_formats(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        assert launch_plan.artifact.format in backend.formats
        assert backend.supports(launch_plan.artifact) == []
        assert backend.supports(replace(launch_plan.artifact, format="no-such-format")) != []

    def test_a_missing_file_is_a_typed_error(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        if not launch_plan.artifact.paths:
            pytest.skip(f"does not apply: {backend.name} opens no file")
        missing = replace(launch_plan.artifact, paths=(launch_plan.artifact.path + ".gone",))
        with pytest.raises((ArtifactError, BackendError)):
            backend.open(replace(launch_plan, artifact=missing))

    def test_layers_that_no_gpu_can_take_are_refused(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        """A backend that is an `Offloader` says why it has no device, and opens nothing that asks for one."""
        if not isinstance(backend, Offloader):
            pytest.skip(f"does not apply: {backend.name} is no Offloader")
        offload = backend.offload(Machine("test", "Test", Cpu("x86_64"), Memory(2**34)))
        assert bool(offload.devices) != bool(offload.missing)
        if not offload.devices:
            with pytest.raises(BackendError):
                backend.open(replace(launch_plan, settings=replace(launch_plan.settings, gpu_layers=1)))

    def test_info_agrees_with_the_plan(self, engine: Engine, launch_plan: LaunchPlan) -> None:
        info, settings = engine.info, launch_plan.settings
        assert info.n_slots == settings.n_slots >= 3
        assert info.n_ctx >= settings.n_ctx >= 256
        assert 64 <= info.max_batch_tokens <= settings.n_batch
        assert info.max_logits >= info.n_slots
        assert all(0 <= token < info.vocab_size for token in info.eos_ids)

    def test_tokens_give_the_text_back(self, engine: Engine) -> None:
        for text in TEXTS:
            tokens = encode(engine, text)
            assert b"".join(map(engine.tokenizer.token_bytes, tokens)).decode().strip() == text

    def test_logits_are_read_only_float32_rows(self, engine: Engine) -> None:
        tokens = encode(engine, TEXTS[0])[:8]
        logits = engine.step([SlotInput(0, 0, tuple(tokens), 3), SlotInput(1, 0, tuple(tokens), 0)])
        assert [rows.shape for rows in logits] == [(3, engine.info.vocab_size)]
        assert logits[0].dtype == "float32"
        assert not logits[0].flags.writeable

    def test_batched_equals_isolated(self, engine: Engine) -> None:
        prompts = [encode(engine, text)[:24] for text in TEXTS]
        isolated = []
        for tokens in prompts:
            isolated.append(last_row(engine, 2, tokens))
            engine.truncate(2, 0)
        batch = [SlotInput(slot, 0, tuple(tokens), 1) for slot, tokens in enumerate(prompts)]
        for alone, rows in zip(isolated, engine.step(batch), strict=True):
            self.assert_same(alone, rows[-1], engine)

    def test_chunked_equals_whole(self, engine: Engine) -> None:
        tokens = encode(engine, TEXTS[0])[:16]
        whole = last_row(engine, 0, tokens)
        for start in range(0, len(tokens), 5):
            chunk = tuple(tokens[start : start + 5])
            rows = engine.step([SlotInput(1, start, chunk, 1)])
        self.assert_same(whole, rows[0][-1], engine)

    def test_many_rows_equal_single_steps(self, engine: Engine) -> None:
        """A draft verified in one step gets the logits that decoding one by one would have got."""
        tokens = encode(engine, TEXTS[1])[:12]
        engine.step([SlotInput(0, 0, tuple(tokens[:8]), 0)])
        verified = engine.step([SlotInput(0, 8, tuple(tokens[8:]), len(tokens) - 8)])[0].copy()
        engine.step([SlotInput(1, 0, tuple(tokens[:8]), 0)])
        for row, at in enumerate(range(8, len(tokens))):
            single = engine.step([SlotInput(1, at, (tokens[at],), 1)])[0][0]
            self.assert_same(single, verified[row], engine)

    def test_truncate_leaves_nothing_behind(self, engine: Engine) -> None:
        first, second = (encode(engine, text)[:20] for text in TEXTS[:2])
        mixed = first[:6] + second[:10]
        fresh = last_row(engine, 0, mixed)
        engine.step([SlotInput(1, 0, tuple(first), 0)])
        n_kept = engine.truncate(1, 6)
        assert n_kept in (6, 0)
        self.assert_same(fresh, last_row(engine, 1, mixed, n_kept), engine)

    def test_fork_gives_the_prefix_and_nothing_else(self, engine: Engine) -> None:
        first, second = (encode(engine, text)[:20] for text in TEXTS[:2])
        mixed = first[:6] + second[:10]
        fresh = last_row(engine, 0, mixed)
        engine.truncate(0, 0)
        engine.step([SlotInput(0, 0, tuple(first), 0), SlotInput(1, 0, tuple(second), 0)])
        n_kept = engine.fork(0, 1, 6)
        assert n_kept in (6, 0)
        self.assert_same(fresh, last_row(engine, 1, mixed, n_kept), engine)
        # The source still has all of its own.
        after = engine.step([SlotInput(0, len(first), (second[0],), 1)])[0][0].copy()
        engine.truncate(2, 0)
        self.assert_same(last_row(engine, 2, [*first, second[0]]), after, engine)

    def test_a_full_slot_is_refused_before_anything_changes(self, engine: Engine) -> None:
        tokens = (encode(engine, TEXTS[0]) * engine.info.n_ctx)[: engine.info.n_ctx]
        size = engine.info.max_batch_tokens
        for start in range(0, len(tokens), size):
            engine.step([SlotInput(0, start, tuple(tokens[start : start + size]), 0)])
        with pytest.raises(CacheFull):
            engine.step([SlotInput(1, 0, (tokens[0],), 1), SlotInput(0, len(tokens), (tokens[0],), 1)])
        assert len(engine.step([SlotInput(1, 0, (tokens[0],), 1)])) == 1

    def test_a_cancelled_request_frees_its_slot(self, engine: Engine) -> None:
        """All slots busy for ever, all cancelled: the next request is answered."""
        with Running(engine) as running:
            endless = GenerationRequest(TEXTS[0], Sampling(temperature=0), ignore_eos=True)
            ids = [running.submit(endless) for _ in range(engine.info.n_slots)]
            running.wait_for(Delta, ids[0])
            for request_id in ids:
                running.cancel(request_id)
            last = running.submit(msgspec.structs.replace(endless, max_tokens=2))
            assert running.wait_for(Done, last).usage.completion_tokens == 2

    def test_memory_stays_flat(self, engine: Engine) -> None:
        import psutil

        short = GenerationRequest(TEXTS[1][:20], Sampling(seed=1), max_tokens=2)
        with Running(engine) as running:
            for _ in range(50):
                running.wait_for(Done, running.submit(short))
            before = psutil.Process().memory_info().rss
            for _ in range(self.leak_requests):
                running.wait_for(Done, running.submit(short))
            grown = psutil.Process().memory_info().rss - before
        assert grown <= self.leak_bytes, f"{grown} bytes more after {self.leak_requests} requests"

    def assert_same(self, one: npt.NDArray[np.float32], other: npt.NDArray[np.float32], engine: Engine) -> None:
        """Equal within the tolerance; bit for bit where the engine promises it."""
        allowed = 0.0 if engine.info.batch_invariant else self.tolerance
        difference = float(abs(one - other).max())
        assert difference <= allowed, f"logits differ by {difference}, allowed {allowed}"


class Running:
    """The runtime's loop over an engine, in a thread, for as long as the `with` block lasts."""

    def __init__(self, engine: Engine) -> None:
        self._inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[wire.Reply] = queue.SimpleQueue()
        self._next = 0
        self._thread = threading.Thread(target=Loop(engine, self._inbox, self._receive).run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.put(wire.Stop(drain=False))
        self._thread.join()

    def submit(self, request: GenerationRequest) -> int:
        self._next += 1
        self._inbox.put(wire.Submit(self._next, request))
        return self._next

    def cancel(self, request_id: int) -> None:
        self._inbox.put(wire.Cancel(request_id))

    def wait_for(self, kind: type[Any], request_id: int, timeout_s: float = 60.0) -> Any:
        """The next event of that kind of that request; others are dropped.

        Raises:
            EdgeLLMError: the request failed; queue.Empty: nothing came in time.
        """
        while True:
            reply = self._replies.get(timeout=timeout_s)
            if reply.id == request_id and isinstance(reply.event, wire.Failed):
                raise reply.event.error()
            if reply.id == request_id and isinstance(reply.event, kind):
                return reply.event

    def _receive(self, messages: list[wire.Up]) -> None:
        for message in messages:
            if isinstance(message, wire.Reply):
                self._replies.put(message)


def encode(engine: Engine, text: str) -> list[int]:
    """Token ids without BOS, for comparing texts."""
    return engine.tokenizer.encode(text, add_special=False, parse_special=False)


def last_row(engine: Engine, slot: int, tokens: Sequence[int], n_past: int = 0) -> npt.NDArray[np.float32]:
    """A copy of the logits after `tokens`, of which the slot already holds `n_past`."""
    rows: npt.NDArray[np.float32] = engine.step([SlotInput(slot, n_past, tuple(tokens[n_past:]), 1)])[0]
    row: npt.NDArray[np.float32] = rows[-1].copy()
    return row
