"""LoRA adapters in the runtime: each answer is that of its own set, whatever runs beside it, and turns are fair."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from support.mixes import Planned, Stage, play, random_mix, random_request
from support.refusals import check_refusal, refuses
from support.toy_engine import ToyEngine, answer

from edgellm.contract.engine import EngineInfo, Logits, SlotInput, check_batch
from edgellm.errors import BackendError, UnknownAdapter, UnsupportedArtifact, UsageError
from edgellm.runtime.adapter_shelf import AdapterShelf
from edgellm.runtime.adapter_turns import SHORT_TURN_STEPS, TURN_S, TURN_STEPS
from edgellm.runtime.busy_step import BUSY_CHUNK
from edgellm.runtime.request_state import RequestState
from edgellm.runtime.scheduler import Scheduler
from edgellm.runtime.step import Step
from edgellm.types.adapter import AdapterFile, AdapterSet, DropAdapter, LoadAdapter, adapter_set, adapters_of
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

INFO = EngineInfo(
    n_slots=4, n_ctx=4096, max_batch_tokens=512, max_logits=4, vocab_size=100, eos_ids=frozenset(),
    capabilities=frozenset({"adapters"}),
)  # fmt: skip
ONE, TWO, BOTH = (("one", 1.0),), (("two", 1.0),), (("two", 0.5), ("one", 1.0))
SETS: tuple[AdapterSet, ...] = ((), ONE, TWO, (("one", 0.5),), BOTH, (("two", 0.0),))
GREEDY = Sampling(temperature=0)


def files(folder: Path) -> dict[str, AdapterFile]:
    for name in ("one", "two"):
        (folder / name).write_text(f"weights of {name}")
    return {name: AdapterFile(name, str(folder / name)) for name in ("one", "two")}


CONTENTS = {"one": "weights of one", "two": "weights of two"}


def greedy(prompt: str, adapters: AdapterSet = (), max_tokens: int = 20) -> GenerationRequest:
    return GenerationRequest(prompt, GREEDY, max_tokens, adapters=adapters, ignore_eos=True)


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow(4)) for seed in range(1, 5))])
def test_mixes_of_adapters_answer_as_if_each_request_were_alone(seed: int, mixes: bool, tmp_path: Path) -> None:
    """Prefixes that several sets share, choices, cancellations; engines that mix sets in a step, and that do not."""
    rng = random.Random(seed)
    loads = [Planned(LoadAdapter(file)) for file in files(tmp_path).values()]
    prompts = ("Once upon a time there was", "Once upon a time there were", "Once", "Other")
    for _ in range(20):
        requests = [
            structs.replace(
                random_request(rng, prompts, longest=30, stops=()), n=rng.choice((1, 1, 3)), adapters=rng.choice(SETS)
            )
            for _ in range(6)
        ]
        engine = ToyEngine(
            n_slots=rng.randint(1, 4), n_batch=rng.choice((4, 32, 512)), rewind=rng.choice((None, 0, 8)),
            fork_copies=rng.random() < 0.5, adapters=True, mixes_adapters=mixes,
        )  # fmt: skip
        mix = [*loads, *random_mix(rng, requests)]
        for planned, said in list(zip(mix, play(engine, mix), strict=True))[2:]:
            assert said.error is None
            request = planned.request
            assert isinstance(request, GenerationRequest)
            for number in range(request.n):
                text, reason, n_tokens = answer(request, choice=number, contents=CONTENTS)
                choice = said.choice(number)
                assert choice.usage is not None
                if choice.reason == "cancelled":
                    assert text.startswith(choice.text)
                else:
                    assert (choice.text, choice.reason, choice.usage.completion_tokens) == (text, reason, n_tokens)


def test_sets_are_equal_where_the_same_is_computed() -> None:
    assert adapter_set((("b", 1.0), ("a", 0.5))) == adapter_set((("a", 0.5), ("b", 1.0)))
    assert adapter_set((("a", 0.0),)) == ()
    assert adapters_of("a") == adapters_of(["a"]) == adapters_of({"a": 1}) == adapters_of([("a", 1)]) == (("a", 1.0),)
    assert adapters_of(None) is None


@pytest.mark.parametrize(
    "adapters",
    [(("a", 1.0), ("a", 0.5)), (("", 1.0),), (("a/b", 1.0),), (("latest", 1.0),), (("a", float("nan")),),
     (("a", 1e9),), tuple((f"a{n}", 1.0) for n in range(17))],
)  # fmt: skip
def test_a_request_refuses_what_names_no_adapters(adapters: AdapterSet) -> None:
    with refuses(UsageError, param="adapters"):
        GenerationRequest("", adapters=adapters)


@pytest.mark.parametrize("asked", [3, [3], [("a", "b")], [("a", True)], [("a", 1, 2)], {"a": 10**400}])
def test_what_names_no_adapters_is_refused(asked: object) -> None:
    with refuses(UsageError, param="adapters"):
        adapters_of(asked)  # type: ignore[arg-type]


def test_an_unknown_adapter_is_a_typed_error_and_costs_nobody_else(tmp_path: Path) -> None:
    load = Planned(LoadAdapter(files(tmp_path)["one"]))
    other = greedy("Once", ONE)
    _, unknown, said = play(ToyEngine(adapters=True), [load, Planned(greedy("Once", TWO)), Planned(other)])
    check_refusal(unknown.error, UnknownAdapter, adapter="two", param="adapters")
    assert said.text == answer(other, contents=CONTENTS)[0]


def test_a_scale_that_leaves_no_numbers_is_the_fault_of_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Overflows(ToyEngine):
        def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
            rows = super().step(batch)
            scales = [scale for entry in batch for _, scale in entry.adapters]
            return [np.full_like(row, np.nan) for row in rows] if max(scales, default=0) > 100 else rows

    load = Planned(LoadAdapter(files(tmp_path)["one"]))
    mix = [load, Planned(greedy("Once", (("one", 1000.0),))), Planned(greedy("Once", ONE))]
    _, refused, said = play(Overflows(adapters=True), mix)
    check_refusal(refused.error, UsageError, param="adapters")
    open_one = structs.replace(greedy("Once"), adapters=None)
    stage = Stage(Overflows(adapters=True), [load, Planned(open_one)])
    stage.loop._adapters.used = (("one", 1000.0),)
    stage.loop.run()
    check_refusal(stage.answers[1].error, BackendError)
    (logged, _) = [record for record in caplog.records if record.name == "edgellm.runtime.engine"]
    assert "logits are not finite" in str((logged.exc_info or ("", ""))[1]), "the engine may be at fault all the same"
    assert said.text == answer(greedy("Once", ONE), contents=CONTENTS)[0]


def test_an_engine_without_adapters_refuses_to_load_one_by_its_name(tmp_path: Path) -> None:
    (refused,) = play(ToyEngine(), [Planned(LoadAdapter(files(tmp_path)["one"]))])
    check_refusal(refused.error, UnsupportedArtifact)


def test_a_name_is_given_once(tmp_path: Path) -> None:
    load = Planned(LoadAdapter(files(tmp_path)["one"]))
    first, second = play(ToyEngine(adapters=True), [load, load])
    assert first.text == "one"
    check_refusal(second.error, UsageError, param="adapters")


def test_an_adapter_is_dropped_when_its_last_answer_has_ended(tmp_path: Path) -> None:
    load = Planned(LoadAdapter(files(tmp_path)["one"]))
    running, late = Planned(greedy("Once", ONE), arrives=1), Planned(greedy("Once", ONE), arrives=6)
    engine = ToyEngine(adapters=True)
    mix = [load, Planned(greedy("Other")), running, Planned(DropAdapter("one"), arrives=5), late]
    _, _, said, dropped, refused = play(engine, mix)
    assert said.text == answer(greedy("Once", ONE), contents=CONTENTS)[0]
    assert dropped.finished_at == said.finished_at
    assert engine.adapters == {}
    check_refusal(refused.error, UnknownAdapter, adapter="one")


def test_two_that_ask_to_drop_it_are_both_told(tmp_path: Path) -> None:
    load, drop = Planned(LoadAdapter(files(tmp_path)["one"])), Planned(DropAdapter("one"), arrives=5)
    _, _, *dropped = play(ToyEngine(adapters=True), [load, Planned(greedy("Once", ONE)), drop, drop])
    assert [one.error for one in dropped] == [None, None]


def test_what_is_not_there_cannot_be_dropped() -> None:
    (refused,) = play(ToyEngine(adapters=True), [Planned(DropAdapter("one"))])
    check_refusal(refused.error, UnknownAdapter, adapter="one")


def test_another_adapter_under_an_old_name_finds_no_cache_of_the_old_one(tmp_path: Path) -> None:
    old = files(tmp_path)["one"]
    new = AdapterFile("one", str(tmp_path / "two"))
    again = Planned(greedy("Once upon a time", ONE), arrives=60)
    mix = [
        Planned(LoadAdapter(old)), Planned(greedy("Once upon a time", ONE)),
        Planned(DropAdapter("one"), arrives=40), Planned(LoadAdapter(new), arrives=41), again,
    ]  # fmt: skip
    said = play(ToyEngine(adapters=True), mix)[-1]
    assert said.text == answer(greedy("Once upon a time", ONE), contents={"one": "weights of two"})[0]
    assert said.usage is not None
    assert said.usage.cached_tokens == 0


def test_the_same_prompt_is_read_anew_for_another_set_and_only_once_for_the_same(tmp_path: Path) -> None:
    loads = [Planned(LoadAdapter(file)) for file in files(tmp_path).values()]
    sets: list[AdapterSet] = [(), ONE, TWO, (), ONE, TWO, (("two", 0.0),)]
    asked = [Planned(greedy("Once upon a time", one, max_tokens=4), arrives=10 * n) for n, one in enumerate(sets)]
    usages = [said.usage for said in play(ToyEngine(adapters=True), [*loads, *asked])[2:]]
    assert [usage.cached_tokens > 0 for usage in usages if usage] == [False, False, False, True, True, True, True]


class Turns:
    """A scheduler whose requests answer for ever."""

    def __init__(
        self, *requests: tuple[AdapterSet, int] | tuple[AdapterSet, int, str], info: EngineInfo = INFO
    ) -> None:
        """`requests`: adapters, tokens of the prompt, and the client."""
        self.scheduler = Scheduler(info)
        for number, one in enumerate(requests):
            self.add(number, *one)

    def add(self, number: int, adapters: AdapterSet, n_prompt: int, client: str = "") -> None:
        generation = GenerationRequest("", adapters=adapters, client=client)
        prompt = [1000 * number + token for token in range(n_prompt)]
        self.scheduler.submit(RequestState(number, generation, prompt, limit=10**6))
        admission = self.scheduler.admit()
        assert admission is not None
        self.scheduler.admitted(admission, 0)

    def step(self, seconds: float = 0.0) -> Step:
        step = self.scheduler.plan()
        for request in self.scheduler.advance(step, seconds):
            request.next_tokens = (1,)
        assert self.scheduler.violations() == []
        return step

    def served(self, n: int) -> list[AdapterSet]:
        """Of so many steps."""
        return [self.step().batch[0].adapters for _ in range(n)]


def test_a_step_holds_one_set_unless_the_engine_mixes() -> None:
    turns = Turns(((), 5), (ONE, 5), (ONE, 5))
    sizes = {len(turns.step().batch) for _ in range(4 * TURN_STEPS)}
    assert sizes == {1, 2}
    mixing = Turns(((), 5), (ONE, 5), (ONE, 5), info=replace(INFO, mixes_adapters=True))
    assert [len(mixing.step().batch) for _ in range(5)] == [3] * 5


def test_sets_have_turns_of_the_same_length_in_the_same_order() -> None:
    turns = Turns(((), 5), (ONE, 5), (TWO, 5), (ONE, 5))
    served = turns.served(6 * TURN_STEPS)
    assert served[::TURN_STEPS] == [(), ONE, TWO] * 2
    assert all(len(set(served[at : at + TURN_STEPS])) == 1 for at in range(0, len(served), TURN_STEPS))


def test_a_set_that_is_alone_goes_on_and_a_new_one_waits_for_less_than_a_turn() -> None:
    turns = Turns((ONE, 5))
    turns.served(100)
    turns.add(1, TWO, 5)
    assert TWO in turns.served(TURN_STEPS)


def test_those_that_come_later_do_not_starve_the_first() -> None:
    """A new set each time that one ends: the others still have their turns."""
    turns = Turns((ONE, 5), (TWO, 5))
    served = []
    for number in range(2, 40):
        turns.add(number, ((f"new-{number}", 1.0),), 5)
        served += turns.served(TURN_STEPS)
        turns.scheduler.release(turns.scheduler.running[-1])
    for adapters in (ONE, TWO):
        assert served.count(adapters) >= len(served) // 4


SCALES: tuple[AdapterSet, ...] = tuple((("one", 1 + n / 10),) for n in range(8))
MANY_SLOTS = replace(INFO, n_slots=12, max_logits=12)


@pytest.mark.parametrize("seconds", [0.0, TURN_S], ids=["fast", "slow"])
@pytest.mark.parametrize("other", [(), TWO], ids=["the model", "an adapter"])
def test_a_client_with_many_sets_has_no_more_turns_than_another(other: AdapterSet, seconds: float) -> None:
    turns = Turns(*((adapters, 5, "many") for adapters in SCALES), info=MANY_SLOTS)
    n_steps = SHORT_TURN_STEPS if seconds else TURN_STEPS
    for _ in range(n_steps + 1):
        turns.step(seconds)
    turns.add(len(SCALES), other, 5, "one")
    served = [turns.step(seconds).batch[0].adapters for _ in range(n_steps * (2 * len(SCALES) + 1))]
    by_turn = served[n_steps - 1 :: n_steps]
    assert by_turn[::2] == [other] * (len(SCALES) + 1)
    assert set(by_turn[1::2]) == set(SCALES), "its own sets have their turns, too"


def test_a_turn_of_a_set_is_one_of_all_clients_that_share_it() -> None:
    """A client gets no further turn for what it has of another's."""
    turns = Turns((ONE, 5, "a"), (ONE, 5, "b"), (TWO, 5, "b"), (BOTH, 5, "c"))
    third = turns.scheduler.running[-1].adapters
    assert turns.served(6 * TURN_STEPS)[::TURN_STEPS] == [ONE, third, TWO] * 2


def test_a_prompt_of_another_set_is_read_in_parts_between_answers() -> None:
    turns = Turns((ONE, 5))
    turns.step()
    turns.add(1, TWO, 4 * BUSY_CHUNK)
    sizes = [[len(entry.tokens) for entry in turns.step().batch] for _ in range(3 * TURN_STEPS)]
    assert max(map(max, sizes)) == BUSY_CHUNK
    read = [at for at, size in enumerate(sizes) if size == [BUSY_CHUNK]]
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(read))


@pytest.mark.parametrize(
    ("seconds", "n_steps"),
    [(TURN_S, SHORT_TURN_STEPS), (TURN_S / 20, 20), (TURN_S / 1000, TURN_STEPS)],
    ids=["slow", "between", "fast"],
)
def test_a_turn_is_short_where_steps_take_long(seconds: float, n_steps: int) -> None:
    turns = Turns((ONE, 5), (TWO, 5))
    served = [turns.step(seconds).batch[0].adapters for _ in range(4 * n_steps)]
    assert served == ([ONE] * n_steps + [TWO] * n_steps) * 2


@pytest.mark.parametrize(
    ("info", "sets"),
    [(INFO, (ONE, TWO)), (INFO, ((), TWO)), (replace(INFO, capabilities=frozenset()), (ONE,))],
    ids=["two sets", "one and none", "no adapters"],
)
def test_an_engine_is_never_given_what_it_does_not_take(info: EngineInfo, sets: tuple[AdapterSet, ...]) -> None:
    batch = [SlotInput(slot, 0, (1,), 1, adapters) for slot, adapters in enumerate(sets)]
    with refuses(ValueError):
        check_batch(batch, info, [0] * 4)
    check_batch(batch, replace(INFO, mixes_adapters=True), [0] * 4)


@pytest.mark.parametrize("again", [False, True])
def test_a_model_that_loads_again_takes_no_other_file_for_its_adapter(again: bool, tmp_path: Path) -> None:
    """Its answers are told to be those of the file that was looked at first."""
    by_name = files(tmp_path)
    made = {name: with_hash(file) for name, file in by_name.items()}
    (tmp_path / "one").write_text("other weights")
    engine = ToyEngine(adapters=True)
    shelf = AdapterShelf(engine)

    shelf.fill(list(made.values()), again=again)
    assert [file.name for file in shelf.loaded] == (["two"] if again else ["one", "two"])


def with_hash(file: AdapterFile) -> AdapterFile:
    return structs.replace(file, sha256=hashlib.sha256(Path(file.path).read_bytes()).hexdigest())
