"""The part of a backend's contract that is about LoRA adapters (capability "adapters")."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgellm.contract.engine import AdapterLoader, SlotInput
from edgellm.errors import ArtifactError, UnknownAdapter
from edgellm.testing.limit import limited
from edgellm.testing.refusals import assert_refused
from edgellm.testing.rows import RowTests
from edgellm.testing.running import Running
from edgellm.testing.tokens import TEXTS, beginning
from edgellm.types.adapter import AdapterFile, AdapterSet, DropAdapter, LoadAdapter
from edgellm.types.event import Adapters
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.contract.engine import Engine

ONE, TWO, HALF = (("kit-one", 1.0),), (("kit-two", 1.0),), (("kit-one", 0.5),)
STEPS = 4  # tokens that are computed one by one after a prompt


@limited
class AdapterTests(RowTests):
    """The fixture `engine` is the class's own."""

    def adapters(self) -> Sequence[str]:
        """Paths of two adapters of the plan's model, which differ and change its logits visibly."""
        return ()

    def test_adapters_change_what_they_should_and_nothing_else(self, engine: Engine) -> None:
        base = self.rows(engine, ())
        with self.loaded(engine):
            one, two, half = (self.rows(engine, adapters) for adapters in (ONE, TWO, HALF))
            both = self.rows(engine, (*ONE, *TWO))
            again = self.rows(engine, ())
        after = self.rows(engine, ())
        assert (base == again).all(), "the base's logits are others while adapters are loaded"
        assert (base == after).all(), "the base's logits are others after adapters were dropped"
        rows = {"the base": base, "one": one, "the other": two, "half of one": half, "both": both}
        allowed = self.allowed(engine)
        for name, those in rows.items():
            for other in list(rows)[list(rows).index(name) + 1 :]:
                difference = float(abs(those - rows[other]).max())
                assert difference > allowed, f"{name} and {other} have the same logits (they differ by {difference:g})"

    def test_slots_with_different_adapters_do_not_mix(self, engine: Engine) -> None:
        """In turn, and in one step where the engine mixes them: each slot has what it has alone."""
        sets: tuple[AdapterSet, ...] = ((), ONE, TWO)
        with self.loaded(engine):
            alone = [self.rows(engine, adapters) for adapters in sets]
            inputs = [self.inputs(engine, slot, adapters) for slot, adapters in enumerate(sets)]
            rows: list[list[npt.NDArray[np.float32]]] = [[] for _ in sets]
            for at in range(STEPS + 1):
                batch = [entries[at] for entries in inputs]
                for entries in [batch] if engine.info.mixes_adapters else [[entry] for entry in batch]:
                    for entry, logits in zip(entries, engine.step(entries), strict=True):
                        rows[entry.slot].append(logits[-1].copy())
            for slot in range(len(sets)):
                engine.truncate(slot, 0)
        for adapters, expected, those in zip(sets, alone, rows, strict=True):
            difference = max(float(abs(one - other).max()) for one, other in zip(expected, those, strict=True))
            allowed = self.allowed(engine) if engine.info.mixes_adapters else 0.0
            assert difference <= allowed, f"logits of {adapters} differ by {difference:g} beside other adapters"

    def test_answers_beside_each_other_are_those_alone(self, engine: Engine) -> None:
        """Through the runtime, of one prompt: no set reads what another wrote, and a scale of 0 is the base."""
        paths = self.required(engine)
        zero: AdapterSet = (("kit-one", 0.0),)
        requests = [
            GenerationRequest(TEXTS[0], Sampling(temperature=0), max_tokens=STEPS, ignore_eos=True, adapters=adapters,
                              top_logprobs=0)
            for adapters in ((), ONE, TWO, zero, HALF, (), ONE)
        ]  # fmt: skip
        with Running(engine, self.limit_s / 2) as running:
            for name, path in zip(("kit-one", "kit-two"), paths, strict=True):
                running.wait_for(Adapters, running.submit(LoadAdapter(AdapterFile(name, path))))
            alone = [_first(running.answer(request)) for request in requests[:5]]
            ids = [running.submit(request) for request in requests]
            beside = [_first(deltas) for deltas in running.all_of(ids)]
            with pytest.raises(UnknownAdapter):
                running.answer(GenerationRequest(TEXTS[0], max_tokens=1, adapters=(("kit-none", 1.0),)))
            for name in ("kit-one", "kit-two"):
                running.wait_for(Adapters, running.submit(DropAdapter(name)))
        allowed = 2 * self.allowed_with_adapters(engine)
        difference = abs(alone[3][1] - alone[0][1])
        assert difference <= allowed, f"with a scale of 0 a logprob differs from the base's by {difference:g}"
        for request, (_, logprob), expected in zip(requests, beside, [*alone, alone[0], alone[1]], strict=True):
            difference = abs(logprob - expected[1])
            assert difference <= allowed, f"{request.adapters} beside others: a logprob differs by {difference:g}"

    def test_what_is_no_adapter_is_a_typed_error(self, engine: Engine, tmp_path: Path) -> None:
        self.required(engine)
        assert isinstance(engine, AdapterLoader)
        (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
        for name, what in (("bad.gguf", "a file that is no adapter"), ("none.gguf", "a missing file")):
            load = functools.partial(engine.load_adapter, "kit-bad", str(tmp_path / name))
            assert_refused(ArtifactError, load, f"load_adapter() of {what}")

    def required(self, engine: Engine) -> Sequence[str]:
        """The two paths."""
        if "adapters" not in engine.info.capabilities:
            pytest.skip('does not apply: info.capabilities lacks "adapters"')
        assert isinstance(engine, AdapterLoader), 'info.capabilities has "adapters", and the engine no load_adapter'
        paths = self.adapters()
        assert len(paths) == 2, f"{type(self).__name__}.adapters() must give the paths of two adapters"
        return paths

    @contextlib.contextmanager
    def loaded(self, engine: Engine) -> Iterator[None]:
        paths = self.required(engine)
        assert isinstance(engine, AdapterLoader)
        for name, path in zip(("kit-one", "kit-two"), paths, strict=True):
            engine.load_adapter(name, path)
        yield
        for name in ("kit-one", "kit-two"):
            engine.drop_adapter(name)

    def inputs(self, engine: Engine, slot: int, adapters: AdapterSet) -> list[SlotInput]:
        """A prompt in one step, and then the same tokens one by one."""
        prompt = beginning(engine, TEXTS[0])
        after = [SlotInput(slot, len(prompt) + at, (prompt[at],), 1, adapters) for at in range(STEPS)]
        return [SlotInput(slot, 0, tuple(prompt), 1, adapters), *after]

    def rows(self, engine: Engine, adapters: AdapterSet) -> npt.NDArray[np.float32]:
        """Logits of `inputs`, alone in slot 0, which is empty afterwards."""
        import numpy as np

        rows = [engine.step([entry])[0][-1].copy() for entry in self.inputs(engine, 0, adapters)]
        engine.truncate(0, 0)
        return np.stack(rows)

    def allowed_with_adapters(self, engine: Engine) -> float:
        """`allowed`, where others have adapters, too."""
        return self.allowed(engine)


def _first(deltas: Sequence[object]) -> tuple[int, float]:
    """The first token of an answer, and its logprob."""
    told = [token for delta in deltas for token in getattr(delta, "logprobs", ())]
    return told[0].chosen.token, told[0].chosen.logprob
