"""Many machines at once: each by itself, or with one model that is best where it is worst."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits, UsageError
from edgellm.hardware import profiles
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.fleet import Shared, Site, cautious, plan, plan_shared
from edgellm.selection.fleet_json import downloads, to_dict
from edgellm.types.model import ModelCard
from edgellm.types.request import SelectionRequest

GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset({"f16", "q8_0", "q4_0"}))
NAMES = ("qwen3-0.6b", "qwen3.5-2b", "qwen3.5-4b", "granite-4.2-3b", "llama-3.1-8b-instruct", "smollm2-135m-instruct")
FEW = [catalog()[name] for name in NAMES]


def site(profile: str, name: str = "", count: int = 1, cards: list[ModelCard] | None = None, **request: object) -> Site:
    asked = SelectionRequest(**request)  # type: ignore[arg-type]
    return Site(name or profile, count, context(profiles.load(profile), FEW if cards is None else cards, [GGUF]), asked)


PI, N100, M2 = (site(p) for p in ("raspberry-pi-5-8gb", "intel-n100-16gb", "apple-m2-16gb"))


def test_each_box_gets_what_it_would_get_alone() -> None:
    for box in plan([PI, N100, M2]):
        alone = decide(context(box.site.machine, box.site.context.cards, [GGUF]), box.site.request)
        assert box.decision == alone


def test_a_box_with_nothing_to_run_says_why() -> None:
    (box,) = plan([site("raspberry-pi-4-1gb", min_tps=500.0)])

    assert box.choice is None
    assert "nothing reaches 500 tok/s" in box.problem


def best_by_hand(sites: list[Site], *, one_file: bool = False) -> tuple[float, set[str]]:
    """The best worst case over all models that keep every floor at 4 bits or more, and who reaches it."""
    worst: dict[str, float] = {}
    for card in FEW:
        rows = [card] if not one_file else [replace(card, files=(f,)) for f in card.files]
        for row in rows:
            try:
                choices = [decide(context(s.machine, [row], [GGUF]), s.request) for s in sites]
            except NothingFits:
                continue
            found = [d.choice for d in choices if d.choice is not None]
            if any("Nothing fits at" in r for d in choices for r in said(d)) or any(c.decode.tok_s < 5 for c in found):
                continue
            worst[card.id] = max(worst.get(card.id, 0), round(min(map(cautious, found)), 2))
    best = max(worst.values())
    return best, {name for name, value in worst.items() if value == best}


@pytest.mark.parametrize("one_file", [False, True])
def test_one_model_is_the_best_where_it_is_worst(one_file: bool) -> None:
    sites = [PI, N100, M2]
    found = plan_shared(sites, one_file=one_file)
    value, models = best_by_hand(sites, one_file=one_file)

    assert found.quality_worst == value
    assert found.model in models
    assert found.slow_boxes == found.low_bit_boxes == ()
    assert {box.choice.model for box in found.boxes if box.choice} == {found.model}
    assert len({box.choice.source for box in found.boxes if box.choice}) == 1 or not one_file


def test_the_box_that_limits_is_named_and_without_it_the_model_is_taken() -> None:
    found = plan_shared([PI, N100, M2])
    assert found.limiting_box == "raspberry-pi-5-8gb"

    left = plan_shared([N100, M2])
    assert left.model == found.without_it
    assert left.quality_worst > found.quality_worst


def test_a_box_that_cannot_run_the_better_model_at_all_limits() -> None:
    two = [catalog()["smollm2-135m-instruct"], catalog()["qwen3.5-4b"]]
    sites = [
        site("raspberry-pi-4-1gb", cards=two),
        site("apple-m2-16gb", cards=two),
        site("intel-n100-16gb", cards=two),
    ]
    found = plan_shared(sites)

    assert (found.model, found.limiting_box, found.without_it) == (
        "smollm2-135m-instruct", "raspberry-pi-4-1gb", "qwen3.5-4b",
    )  # fmt: skip


def test_two_or_three_bits_are_taken_only_where_nothing_runs_in_four() -> None:
    low = catalog()["qwen3.5-4b"]
    low = replace(low, files=tuple(f for f in low.files if f.quant == "Q3_K_S"))
    small = replace(catalog()["smollm2-135m-instruct"])

    assert plan_shared([site("apple-m2-16gb", cards=[low, small])]).model == small.id
    alone = plan_shared([site("apple-m2-16gb", cards=[low])])
    assert (alone.model, alone.low_bit_boxes) == (low.id, ("apple-m2-16gb",))


def test_boxes_that_are_alike_do_not_limit_one_another() -> None:
    assert plan_shared([M2, replace(M2, name="another")]).limiting_box == ""


def test_the_mean_counts_machines() -> None:
    once = plan_shared([PI, M2])
    often = plan_shared([PI, replace(M2, count=9)])
    at = {box.site.name: cautious(box.choice) for box in once.boxes if box.choice}

    assert often.model == once.model
    assert once.quality_mean == round(sum(at.values()) / 2, 2)
    assert often.quality_mean == round((at["raspberry-pi-5-8gb"] + 9 * at["apple-m2-16gb"]) / 10, 2)


def test_where_no_model_keeps_all_floors_the_slow_boxes_are_named() -> None:
    small = [catalog()["qwen3.5-4b"], catalog()["llama-3.1-8b-instruct"]]
    found = plan_shared([site("raspberry-pi-5-8gb", cards=small), site("apple-m2-16gb", cards=small)])

    assert found.model == "qwen3.5-4b"
    assert found.slow_boxes == ("raspberry-pi-5-8gb",)


def test_where_no_model_runs_everywhere_the_box_that_allows_fewest_is_named() -> None:
    big = [catalog()["llama-3.1-8b-instruct"], catalog()["phi-4"]]
    with refuses(NothingFits):
        plan_shared([site("raspberry-pi-4-1gb", cards=big), site("apple-m2-16gb", cards=big)])


def test_a_promise_is_not_broken_for_one_model() -> None:
    with refuses(NothingFits):
        plan_shared([site("raspberry-pi-5-8gb", "kiosk", min_tps=1000.0), M2])
    with refuses(NothingFits):
        plan_shared([site("raspberry-pi-5-8gb", "kiosk", max_memory_bytes=2**20), M2])


def test_chat_and_embedding_models_are_not_one() -> None:
    with refuses(UsageError):
        plan_shared([PI, site("apple-m2-16gb", "search", task="embed")])


def test_downloads_are_counted_once_a_file_and_once_a_machine() -> None:
    boxes = plan([replace(PI, count=12), replace(PI, name="another"), M2])
    files = downloads(boxes)
    source = boxes[0].choice.source  # type: ignore[union-attr]
    first = next(f for f in files if f.source == source)

    assert (first.boxes, first.copies) == (("raspberry-pi-5-8gb", "another"), 13)
    assert len({f.source for f in files}) == len(files) == 2
    told = to_dict("x", ["a", "b", "c"], boxes, None)["downloads"]
    assert told["distinct_bytes"] == sum(f.bytes for f in files)
    assert told["total_bytes"] == 13 * files[0].bytes + files[1].bytes


def test_what_is_stored_is_not_downloaded() -> None:
    source = plan([PI])[0].choice.source  # type: ignore[union-attr]

    assert downloads(plan([replace(PI, context=replace(PI.context, stored=frozenset(frozenset({source}))))])) == []


def test_a_published_size_is_the_downloads() -> None:
    card = catalog()["qwen3-0.6b"]
    known = replace(card, files=card.files[:1])
    (file,) = downloads(plan([site("apple-m2-16gb", cards=[known])]))

    assert (file.bytes, file.bytes_exact) == (639_446_688, True)


def test_equal_fleets_give_equal_json() -> None:
    def told() -> tuple[dict[str, object], Shared]:
        found = plan_shared([PI, M2])
        return to_dict("x", ["a", "b"], found.boxes, found), found

    assert told()[0] == told()[0]
