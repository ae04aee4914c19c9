"""The conformance test of a backend, for plugin authors. Subclass `BackendContract` in a test module:

    class TestMine(BackendContract):
        def plan(self) -> LaunchPlan:
            return LaunchPlan("mine", Artifact("my-format", (MODEL,), "tiny"), Settings(n_ctx=256, n_slots=3))

and run pytest. For an engine with capability "embed" there is `EmbedderContract`, with the same `plan`.

The plan needs at least 3 slots of at least 256 tokens, a batch of at least 64, and a model that is quick, and that
predicts different tokens after different texts, not by their last token alone. All tests of a class share one engine.
Before it is opened, a worker opens the plan, too: native code that dies there is a failure with its signal or status,
and not the end of pytest.
An engine with capability "adapters" needs two of them for that model: `adapters` gives their paths.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from edgellm.contract import answers
from edgellm.contract.backend import (
    RECOGNIZED_BY,
    Accelerated,
    Adviser,
    CacheQuantizer,
    Calibrator,
    HasPriors,
    Loader,
    Offloader,
    Provable,
    Recognizer,
    Repacker,
    WorkerEnv,
)
from edgellm.contract.engine import SlotInput
from edgellm.contract.manager import plugins
from edgellm.errors import ArtifactError, BackendError, CacheFull
from edgellm.testing.adapters import AdapterTests
from edgellm.testing.answers import AnswerTests
from edgellm.testing.limit import limited, within
from edgellm.testing.prefixes import PrefixTests
from edgellm.testing.refusals import assert_refused
from edgellm.testing.running import Running, try_to_open
from edgellm.testing.tokens import TEXTS, TokenizerTests, beginning, encode, last_row
from edgellm.types.event import Done
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.request import KV_TYPES, GenerationRequest
from edgellm.types.sampling import Sampling

if TYPE_CHECKING:
    from edgellm.contract.backend import Backend
    from edgellm.contract.engine import Engine
    from edgellm.types.plan import LaunchPlan


DRAFTED = 4  # tokens that are verified in one step
_SAID: dict[type, tuple[str, ...]] = {
    CacheQuantizer: ("kv_types",),
    Loader: ("architectures", "tensor_types"),
    Offloader: ("offload",),
    Accelerated: ("accelerators",),
    HasPriors: ("priors",),
    Provable: ("unproven",),
    Calibrator: ("build",),
    WorkerEnv: ("worker_environment",),
    Adviser: ("advise",),
}
_SAID_ALWAYS = ("kv_types", "priors", "build", "worker_environment")  # not of a machine


@limited
class BackendContract(TokenizerTests, AnswerTests, PrefixTests, AdapterTests):
    """What every backend must do, whatever it computes with.

    Attributes:
        tolerance: largest difference of a logit between batched and isolated computation. 0.0 = bit for bit, which is
            required where `info.batch_invariant` says so.
        leak_requests: short requests run to see that memory stays flat.
        leak_bytes: growth allowed over them.
        limit_s: seconds that opening and each test may take. What takes longer hangs.
    """

    leak_requests: ClassVar[int] = 1000
    leak_bytes: ClassVar[int] = 16 * 1024**2

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, launch_plan: LaunchPlan) -> Backend:
        return plugins().backend(launch_plan.backend)

    @pytest.fixture
    def engine(self, shared_engine: Engine) -> Engine:
        """The class's engine with empty slots."""
        self.refuse_hung()
        for slot in range(shared_engine.info.n_slots):
            n_kept = within(self.limit_s, "truncate", functools.partial(shared_engine.truncate, slot, 0))
            assert n_kept == 0, f"truncate({slot}, 0) says that {n_kept} tokens are left, 0 must be"
        return shared_engine

    def test_opens_only_its_formats(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        artifact = launch_plan.artifact
        assert artifact.format in backend.formats, f"the plan is for {artifact.format!r}, formats={backend.formats}"
        problems = backend.supports(artifact)
        assert problems == [], f"supports() says of the plan's own artifact: {problems}; [] is expected"
        problems = backend.supports(replace(artifact, format="no-such-format"))
        assert problems != [], "supports() says [] of format 'no-such-format'; a reason is expected"

    def test_says_what_it_is(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        """All that a choice reads of this backend is as the contract says; a BackendError tells what is not."""
        machine = Machine("test", "Test", Cpu("x86_64"), Memory(2**34))
        answers.answer(backend, "describe")
        answers.answer(backend, "check", machine)
        for kind, members in _SAID.items():
            for member in members if isinstance(backend, kind) else ():
                answers.answer(backend, member, *((machine,) if member not in _SAID_ALWAYS else ()))
        answers.footprint(backend, launch_plan.artifact, launch_plan.settings)
        if isinstance(backend, Repacker):
            answers.answer(backend, "repacking", machine, is_here=True)
        if isinstance(backend, CacheQuantizer):
            unknown = {*answers.answer(backend, "kv_types")} - {*KV_TYPES}
            assert not unknown, f"kv_types has {sorted(unknown)}, which nobody asks for: {', '.join(KV_TYPES)} are"

    def test_recognizes_its_own_files_and_no_others(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        """A backend that is a `Recognizer` knows the plan's model by its path and beginning, and no text."""
        artifact = launch_plan.artifact
        if not isinstance(backend, Recognizer) or not artifact.paths:
            pytest.skip(f"does not apply: {backend.name} is not a Recognizer, or its plan has no file")
        path = Path(artifact.path)
        begin = path.read_bytes()[:RECOGNIZED_BY] if path.is_file() else b""
        known = backend.recognizes(artifact.path, begin)
        assert known == artifact.format, f"recognizes() says {known!r} of the plan's own file, not {artifact.format!r}"
        known = backend.recognizes("notes.txt", b"Some notes.\n")
        assert known == "", f"recognizes() says {known!r} of a text, '' is expected"

    @pytest.mark.usefixtures("tried")
    def test_a_missing_file_is_a_typed_error(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        if not launch_plan.artifact.paths:
            pytest.skip(f"does not apply: {backend.name} opens no file")
        missing = replace(launch_plan.artifact, paths=(launch_plan.artifact.path + ".gone",))
        without_file = replace(launch_plan, artifact=missing)
        try_to_open(without_file, self.limit_s / 2, "a missing file")
        try:
            backend.open(without_file)
        except (ArtifactError, BackendError):
            return
        except Exception as error:
            came = f"open() raises {type(error).__name__}: {error}"
        else:
            came = "open() raises nothing"
        pytest.fail(f"of a missing file {came}; BadArtifact is expected", pytrace=False)

    @pytest.mark.usefixtures("tried")
    def test_layers_that_no_gpu_can_take_are_refused(self, backend: Backend, launch_plan: LaunchPlan) -> None:
        """A backend that is an `Offloader` says why it has no device, and opens nothing that asks for one."""
        if not isinstance(backend, Offloader):
            pytest.skip(f"does not apply: {backend.name} is not an Offloader")
        offload = backend.offload(Machine("test", "Test", Cpu("x86_64"), Memory(2**34)))
        assert bool(offload.devices) != bool(offload.missing), f"{offload} must have devices or say what is missing"
        if not offload.devices:
            on_gpu = replace(launch_plan, settings=replace(launch_plan.settings, gpu_layers=1))
            try_to_open(on_gpu, self.limit_s / 2, "a layer on a GPU that is not there")
            assert_refused(BackendError, lambda: backend.open(on_gpu), "open() with a layer on a GPU that is not there")

    def test_devices_of_whole_models_are_told_or_missed(self, backend: Backend) -> None:
        """A backend that is `Accelerated` says why it has no device, unless it is made for the CPU."""
        if not isinstance(backend, Accelerated):
            pytest.skip(f"does not apply: {backend.name} is not Accelerated")
        offload = backend.accelerators(Machine("test", "Test", Cpu("x86_64"), Memory(2**34)))
        if offload is not None:
            assert bool(offload.devices) != bool(offload.missing), f"{offload} must have devices or say what is missing"

    def test_info_agrees_with_the_plan(self, engine: Engine, launch_plan: LaunchPlan) -> None:
        info, settings = engine.info, launch_plan.settings
        assert settings.n_slots >= 3, f"the plan has n_slots={settings.n_slots}, the tests need 3"
        assert settings.n_ctx >= 256, f"the plan has n_ctx={settings.n_ctx}, the tests need 256"
        assert info.n_slots == settings.n_slots, f"info.n_slots={info.n_slots}, the plan says {settings.n_slots}"
        assert info.n_ctx >= settings.n_ctx, f"info.n_ctx={info.n_ctx}, the plan says {settings.n_ctx}"
        batch, most = info.max_batch_tokens, settings.n_batch
        assert 64 <= batch <= most, f"info.max_batch_tokens={batch}, 64 to the plan's n_batch={most} are expected"
        assert info.max_logits >= info.n_slots, (
            f"info.max_logits={info.max_logits}, each of {info.n_slots} slots needs one"
        )
        beyond = [token for token in info.eos_ids if not 0 <= token < info.vocab_size]
        assert beyond == [], f"info.eos_ids has {beyond}, tokens are 0 to {info.vocab_size - 1}"

    def test_logits_are_read_only_float32_rows(self, engine: Engine) -> None:
        tokens = encode(engine, TEXTS[0])[:8]
        logits = engine.step([SlotInput(0, 0, tuple(tokens), 3), SlotInput(1, 0, tuple(tokens), 0)])
        shapes, expected = [rows.shape for rows in logits], [(3, engine.info.vocab_size)]
        assert shapes == expected, (
            f"logits have shapes {shapes}, {expected} are expected: one array for the first entry"
        )
        assert logits[0].dtype == "float32", f"logits are {logits[0].dtype}, float32 is expected"
        assert not logits[0].flags.writeable, "logits can be written to: set `flags.writeable = False`"

    def test_batched_equals_isolated(self, engine: Engine) -> None:
        prompts = [beginning(engine, text) for text in TEXTS]
        isolated = []
        for tokens in prompts:
            isolated.append(last_row(engine, 2, tokens))
            engine.truncate(2, 0)
        for one, other in itertools.combinations(range(len(TEXTS)), 2):
            self.assert_differ(isolated[one], isolated[other], engine, f"after {TEXTS[one]!r} and {TEXTS[other]!r}")
        batch = [SlotInput(slot, 0, tuple(tokens), 1) for slot, tokens in enumerate(prompts)]
        for slot, (alone, rows) in enumerate(zip(isolated, engine.step(batch), strict=True)):
            self.assert_same(alone, rows[-1], engine, f"the prompt of slot {slot} alone and in a batch of three")

    def test_chunked_equals_whole(self, engine: Engine) -> None:
        tokens = encode(engine, TEXTS[0])[:16]
        whole = last_row(engine, 0, tokens)
        for start in range(0, len(tokens), 5):
            chunk = tuple(tokens[start : start + 5])
            rows = engine.step([SlotInput(1, start, chunk, 1)])
        self.assert_same(whole, rows[0][-1], engine, "a prompt in one step and in steps of 5 tokens")

    def test_many_rows_equal_single_steps(self, engine: Engine) -> None:
        """A draft verified in one step gets the logits that decoding one by one would have got."""
        prompt, draft = beginning(engine, TEXTS[1]), []
        row, singles = last_row(engine, 1, prompt), []
        for at in range(len(prompt), len(prompt) + min(DRAFTED, engine.info.max_logits)):
            draft.append(int(row.argmax()))
            row = engine.step([SlotInput(1, at, (draft[-1],), 1)])[0][0].copy()
            singles.append(row)
        mirrored = max(
            zip(singles, reversed(singles), strict=True), key=lambda pair: float(abs(pair[0] - pair[1]).max())
        )
        self.assert_differ(*mirrored, engine, f"after each of the tokens {draft} that it predicts itself")
        engine.step([SlotInput(0, 0, tuple(prompt), 0)])
        verified = engine.step([SlotInput(0, len(prompt), tuple(draft), len(draft))])[0]
        for number, (single, drafted) in enumerate(zip(singles, verified, strict=True)):
            self.assert_same(single, drafted, engine, f"row {number} of {len(draft)} in one step, and that token alone")

    def test_a_full_slot_is_refused_before_anything_changes(self, engine: Engine) -> None:
        tokens = (encode(engine, TEXTS[0]) * engine.info.n_ctx)[: engine.info.n_ctx]
        size = engine.info.max_batch_tokens
        for start in range(0, len(tokens), size):
            engine.step([SlotInput(0, start, tuple(tokens[start : start + size]), 0)])
        beyond = [SlotInput(1, 0, (tokens[0],), 1), SlotInput(0, len(tokens), (tokens[0],), 1)]
        what = f"a step with a token more than info.n_ctx={engine.info.n_ctx} for a slot"
        assert_refused(CacheFull, lambda: engine.step(beyond), what)
        n_arrays = len(engine.step([SlotInput(1, 0, (tokens[0],), 1)]))
        assert n_arrays == 1, f"a step for one slot gives {n_arrays} arrays of logits, 1 is expected"

    def test_memory_stays_flat(self, engine: Engine) -> None:
        import psutil

        short = GenerationRequest(TEXTS[1][:20], Sampling(seed=1), max_tokens=2)
        with Running(engine, self.limit_s / 2) as running:
            for _ in range(50):
                running.wait_for(Done, running.submit(short))
            before = psutil.Process().memory_info().rss
            for _ in range(self.leak_requests):
                running.wait_for(Done, running.submit(short))
            grown = psutil.Process().memory_info().rss - before
        assert grown <= self.leak_bytes, f"{grown} bytes more after {self.leak_requests} requests"
