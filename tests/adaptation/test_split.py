"""What judges a tuning is nothing that it has seen, nor almost."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from edgellm.adaptation import near_duplicates as module
from edgellm.adaptation.controls import shots, shuffled, with_shots
from edgellm.adaptation.near_duplicates import near_duplicates
from edgellm.adaptation.split import answer_of, count_classes, split
from edgellm.types.message import Message
from edgellm.types.tuning_data import TrainingChat, TrainingPair, TrainingRecord, TrainingText

INSTRUCTION = "Name the class of the thing that is defined here, with one word and nothing else: "
WORDS = [
    f"{a}{b}{c}" for a in ("ka", "lo", "mi", "ru") for b in ("ben", "dor", "fel") for c in ("a", "est", "ig", "oso")
]


def definition(number: int, n_words: int = 12) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=n_words))


def asked(line: int, text: str, answer: str) -> TrainingChat:
    return TrainingChat(line, (Message("user", INSTRUCTION + text), Message("assistant", answer)))


def records(n: int) -> list[TrainingRecord]:
    labels = ("plant", "animal", "plant", "food", "act", "animal", "plant")
    return [asked(line, definition(line), labels[line % 7]) for line in range(1, n + 1)]


def test_parts_have_no_record_together_and_every_class() -> None:
    made = split(records(400), validation=0.1, test=0.2, seed=3)
    parts = [made.train, made.validation, made.test]
    lines = [{record.line for record in part} for part in parts]

    assert sum(map(len, lines)) == 400
    assert len(set.union(*lines)) == 400
    assert [len(part) for part in parts] == [280, 40, 80], "as many as were asked for, of all classes together"
    assert made.classes == dict(Counter(map(answer_of, records(400))).most_common())
    for part in parts:
        counts = Counter(map(answer_of, part))
        for label, n in made.classes.items():
            assert counts[label] / len(part) == pytest.approx(n / 400, abs=0.02)
    assert (made.removed, made.unlearned, made.untested) == ((), (), ())


def test_a_split_is_the_same_for_the_same_seed_in_any_order() -> None:
    made = split(records(200), validation=0.1, test=0.1, seed=3)

    assert split(records(200)[::-1], validation=0.1, test=0.1, seed=3) == made
    assert split(records(200), validation=0.1, test=0.1, seed=4).test != made.test


def test_records_with_the_same_content_stay_together() -> None:
    twice = [
        *records(100),
        *(asked(100 + record.line, definition(record.line), answer_of(record)) for record in records(100)),
    ]
    made = split(twice, validation=0.1, test=0.2)
    held_out = {record.line % 100 for record in (*made.validation, *made.test)}

    assert not held_out & {record.line % 100 for record in made.train}
    assert made.removed == ()


def test_what_almost_repeats_a_held_out_record_is_not_learned() -> None:
    plain = records(200)
    held_out = split(plain, validation=0.1, test=0.1).test
    changed = [
        asked(1000 + at, record.messages[0].content.removeprefix(INSTRUCTION).upper() + "  !", answer_of(record))
        for at, record in enumerate(held_out)
    ]
    made = split([*plain, *changed], validation=0.1, test=0.1)
    tested = {record.line: record for record in (*made.validation, *made.test)}

    assert made.removed
    for line, other in made.removed:
        assert abs(line - other) > 100
        assert other in tested
    left = {record.messages[0].content.casefold().rstrip(" !") for record in made.train}
    assert not left & {record.messages[0].content.casefold().rstrip(" !") for record in tested.values()}


def test_a_class_that_is_nowhere_learned_or_tested_is_named() -> None:
    few = [*records(100), asked(101, definition(101), "location")]
    made = split(few, validation=0.1, test=0.1)

    assert made.untested == ("location",)
    assert made.unlearned == ()
    again = [asked(line, definition(1), "rare") for line in range(1, 9)]
    assert split([*records(50), *again], validation=0.5, test=0.5).unlearned


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        (["a", "b"] * 10, {"a": 10, "b": 10}),
        (["a"] * 20, None),
        ([str(number) for number in range(20)], None),
        (["a", "b" * 65] * 10, None),
        (["a", ""] * 10, None),
        (["a", "b", "b"], None),
    ],
)
def test_answers_that_repeat_are_classes(answers: list[str], classes: dict[str, int] | None) -> None:
    assert count_classes([TrainingPair(line, "?", answer) for line, answer in enumerate(answers)]) == classes


def test_texts_are_split_too() -> None:
    made = split([TrainingText(line, definition(line)) for line in range(50)], validation=0.1, test=0.1)

    assert (len(made.train), len(made.validation), len(made.test), made.classes) == (40, 5, 5, None)


def index(one: str, other: str, common: set[str]) -> float:
    """The plain Jaccard index of shingles that are not common."""
    sets = [{text[at : at + 8] for at in range(len(text) - 7)} - common for text in (one, other)]
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def test_near_duplicates_are_those_of_the_definition() -> None:
    kept = [INSTRUCTION + definition(number, 40) for number in range(60)]
    texts = []
    for number in range(60):  # more and more of the words replaced
        words = definition(number, 40).split()
        for at in range(number % 12):
            words[at] = random.Random(1000 + number * 12 + at).choice(WORDS)
        texts.append(INSTRUCTION + " ".join(words))
    found = near_duplicates(texts, kept)
    common = {INSTRUCTION.casefold()[at : at + 8] for at in range(len(INSTRUCTION) - 7)}
    indices = [index(text, other, common) for text, other in zip(texts, kept, strict=True)]

    assert all(found[place] == place for place in found)
    assert {place for place, value in enumerate(indices) if value > 0.85} <= found.keys()
    assert not {place for place, value in enumerate(indices) if value < 0.7} & found.keys()
    assert 5 < len(found) < 40


def test_the_search_tells_how_far_it_is_and_can_be_ended() -> None:
    kept, texts = ([definition(number) for number in some] for some in (range(7), range(20, 33)))
    told: list[tuple[int, int]] = []
    near_duplicates(texts, kept, progress=lambda done, of: told.append((done, of)))
    assert told == [(done, 40) for done in range(1, 41)]

    def end(done: int, _of: int) -> None:
        told.append((done, 0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_duplicates(texts, kept, progress=end)
    assert told[40:] == [(1, 0)]


def test_case_and_blanks_make_no_other_text() -> None:
    assert near_duplicates(["A  short\ntext", "b", ""], ["another", "a SHORT text", ""]) == {0: 1, 2: 2}
    assert near_duplicates([], ["a"]) == near_duplicates(["a"], []) == {}


def test_of_many_shingles_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(definition(10 * number + part) for part in range(10)) for number in range(20)]
    monkeypatch.setattr(module, "MAX_SHINGLES", 4000)

    assert near_duplicates([text + " more" for text in texts], texts) == {place: place for place in range(20)}
    assert near_duplicates([text + " more" for text in texts[:10]], texts[10:]) == {}


def test_texts_of_the_same_parts_are_not_compared_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [definition(number, 6) for number in range(12)]
    texts = [" ".join(random.Random(number).sample(parts, 6)) for number in range(60)]
    compared = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal compared
        compared += 1
        return isin(*args, **options)

    isin = np.isin
    monkeypatch.setattr(np, "isin", counted)
    monkeypatch.setattr(module, "MAX_PAIRS", 3)
    near_duplicates(texts[:20], texts[20:])
    assert compared <= 20 * 3

    one = texts[:1] + [text + " " + definition(100) for text in texts[20:]]
    assert near_duplicates([texts[0] + " more"], one[::-1]) == {0: 40}  # it alone has the beginning of the text


def test_dealt_out_answers_are_the_same_ones_elsewhere() -> None:
    given = [*records(100), TrainingPair(101, "Hi", "there"), TrainingText(102, "text")]
    dealt = shuffled(given, seed=1)

    assert Counter(map(answer_of, dealt)) == Counter(map(answer_of, given))
    assert [record.line for record in dealt] == [record.line for record in given]
    same = sum(answer_of(one) == answer_of(other) for one, other in zip(dealt, given, strict=True))
    assert same < 60
    assert dealt[-1] == given[-1]
    assert shuffled(given, seed=1) == dealt != shuffled(given, seed=2)


def test_of_dealt_out_answers_each_class_gets_its_even_share() -> None:
    classes = ["rare"] * 30 + ["usual"] * 60 + ["frequent"] * 210
    given = [TrainingPair(line, f"question {line}", label) for line, label in enumerate(classes, 1)]
    pairs = Counter(zip(classes, map(answer_of, shuffled(given)), strict=True))

    sizes = Counter(classes)
    for of, n_of in sizes.items():
        for label, n_label in sizes.items():
            assert abs(pairs[of, label] - n_of * n_label / len(classes)) <= 1, (of, label)
    assert len({answer_of(record) for record in shuffled(given)[:3]}) > 1, "and not one after another"


def test_equal_questions_get_equal_answers_in_whatever_form() -> None:
    pairs = [TrainingPair(line, f"question {line}", "even" if line % 2 else "odd") for line in range(40)]
    chats = [msgspec.structs.replace(pair.chat, line=100 + pair.line) for pair in pairs]
    dealt = list(map(answer_of, shuffled([*pairs, *chats])))

    assert dealt[:40] == dealt[40:]
    assert dealt[:40] != list(map(answer_of, pairs))


def test_shots_are_one_of_each_class_before_the_second_of_any() -> None:
    chosen = shots(records(100), 6, seed=1)

    assert len({answer_of(chat) for chat in chosen[:4]}) == 4
    assert len({chat.line for chat in chosen}) == 6
    question = (Message("system", "Be brief."), Message("user", "What?"))
    whole = with_shots(question, chosen)
    assert whole[0] == question[0]
    assert whole[-1] == question[1]
    assert [message.role for message in whole[1:-1]] == ["user", "assistant"] * 6
    assert shots([TrainingText(1, "a")], 3) == []
