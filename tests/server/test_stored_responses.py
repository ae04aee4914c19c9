"""Responses that are kept: what can be asked of them, by whom, and for how long."""

from __future__ import annotations

import itertools
import json
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from support.live_server import Live, Servers
from support.off_loop import calls_off_loop
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import UsageError
from edgellm.server.dialects.responses import listing, operations
from edgellm.server.dialects.responses.body import ResponsesBody
from edgellm.server.dialects.responses.chunks import ResponsesChunks
from edgellm.server.dialects.responses.stored import Conversation, KeptItem, StoredResponses, kept_items
from edgellm.server.errors import HttpError
from edgellm.server.intake import MAX_BODY_BYTES, Intake
from edgellm.types.message import MAX_MESSAGES

ALICE, BOB = b"a", b"b"


def create(live: Live, text: str, **fields: Any) -> Any:
    answer = live.post("/v1/responses", {"input": text, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_response_is_there_until_it_is_deleted(live: Live) -> None:
    kept = create(live, "hello")
    path = f"/v1/responses/{kept['id']}"

    assert live.http.get(path).json() == kept
    assert live.http.delete(path, headers={"content-type": "application/json"}).json()["deleted"] is True
    assert live.http.get(path).status_code == 404


def test_a_stream_is_kept_too(live: Live) -> None:
    sent = live.post("/v1/responses", {"input": "hello", "stream": True}).text
    response_id = sent.partition('"id":"')[2].partition('"')[0]

    assert live.http.get(f"/v1/responses/{response_id}").json()["status"] == "completed"


def test_what_is_not_to_be_stored_is_not(live: Live) -> None:
    response_id = create(live, "hello", store=False)["id"]

    assert live.http.get(f"/v1/responses/{response_id}").status_code == 404
    refused = live.post("/v1/responses", {"input": "on", "previous_response_id": response_id})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "previous_response_id")


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_another_key_does_not_find_it(live: Live, method: str) -> None:
    response_id = create(live, "hello")["id"]
    path = f"/v1/responses/{response_id}" + ("/cancel" if method == "POST" else "")
    headers = {"authorization": "Bearer other", "content-type": "application/json"}

    assert live.http.request(method, path, headers=headers).status_code == 404
    assert live.http.get(f"/v1/responses/{response_id}").status_code == 200


def test_a_key_is_one_however_it_is_sent(live: Live) -> None:
    sent = live.http.post("/v1/responses", json={"input": "hello"}, headers={"authorization": "bearer key"}).json()
    path = f"/v1/responses/{sent['id']}"

    assert live.http.get(path, headers={"x-api-key": "key"}).status_code == 200


def test_nothing_is_cancelled_as_nothing_runs_in_the_background(live: Live) -> None:
    response_id = create(live, "hello")["id"]

    assert live.post(f"/v1/responses/{response_id}/cancel", {}).status_code == 400
    assert live.http.get(f"/v1/responses/{response_id}?stream=true").status_code == 400


def test_a_conversation_goes_on(live: Live) -> None:
    first = create(live, "hello", instructions="Be brief.")
    second = create(live, "on", previous_response_id=first["id"])
    items = live.http.get(f"/v1/responses/{second['id']}/input_items?order=asc").json()

    assert [item["role"] for item in items["data"]] == ["user", "assistant", "user"]
    assert [item["content"][0]["text"] for item in items["data"]] == ["hello", "Be brief.\n\nhello", "on"]
    assert items["has_more"] is False
    assert second["previous_response_id"] == first["id"]
    assert second["output"][0]["content"][0]["text"] == "on"  # what the first was told is not told again


def test_pages_of_items(live: Live) -> None:
    said = [{"role": "user", "content": text} for text in "abc"]
    path = f"/v1/responses/{create(live, '', input=said)['id']}/input_items"
    first = live.http.get(f"{path}?limit=2").json()
    second = live.http.get(f"{path}?limit=2&after={first['last_id']}").json()

    assert [item["content"][0]["text"] for item in (*first["data"], *second["data"])] == ["c", "b", "a"]
    assert (first["has_more"], second["has_more"]) == (True, False)
    for query in ("limit=0", "limit=101", "limit=x", "limit=" + "1" * 5000, "limit=" + "1" * 9, "order=up", "after=x"):
        assert live.http.get(f"{path}?{query}").status_code == 400


def test_a_page_ends_before_its_items_are_too_long_together(live: Live) -> None:
    said = [{"role": "user", "content": text * 90_000} for text in "abcd"] + [{"role": "user", "content": "e"}]
    path = f"/v1/responses/{create(live, '', input=said, truncation='auto')['id']}/input_items?order=asc"
    first = live.http.get(path).json()
    second = live.http.get(f"{path}&after={first['last_id']}").json()

    assert [len(page["data"]) for page in (first, second)] == [3, 2]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [item["content"][0]["text"][0] for item in (*first["data"], *second["data"])] == list("abcde")


def test_items_are_referred_to(live: Live) -> None:
    (message,) = create(live, "hello")["output"]
    answer = create(
        live, "", input=[{"type": "item_reference", "id": message["id"]}, {"role": "user", "content": "on"}]
    )
    items = live.http.get(f"/v1/responses/{answer['id']}/input_items").json()["data"]

    assert [item["content"][0]["text"] for item in items] == ["on", "hello"]


def test_tokens_are_counted(live: Live) -> None:
    counted = live.post("/v1/responses/input_tokens", {"input": "hello"}).json()

    assert counted == {"object": "response.input_tokens", "input_tokens": 6}
    assert create(live, "hello")["usage"]["input_tokens"] == 6


def test_a_conversation_is_made_short(live: Live) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    short = live.post("/v1/responses/compact", {"input": said}).json()
    first, second, summary = ResponsesBody.read(json.dumps({"input": short["output"]}).encode()).messages()

    assert short["object"] == "response.compaction"
    assert [first.content, second.content] == ["a", "c"]
    assert "Summarize our conversation" in summary.content  # the model says back what it is asked


@pytest.mark.parametrize("body", [{}, {"input": []}, {"input": "a", "max_output_tokens": 0}], ids=str)
def test_compact_refuses_what_an_answer_refuses(live: Live, body: dict[str, Any]) -> None:
    refused, compacted = (live.post(path, body) for path in ("/v1/responses", "/v1/responses/compact"))

    assert (compacted.status_code, compacted.json()) == (400, refused.json())


def test_compact_says_that_it_does_not_stream(live: Live) -> None:
    answer = live.post("/v1/responses/compact", {"input": "a", "stream": True})
    assert (answer.status_code, answer.headers["x-edgellm-ignored"]) == (200, "stream")


def test_only_what_the_user_said_stays_of_what_is_made_short(live: Live) -> None:
    said = [
        {"type": "reasoning", "role": "user", "summary": []},
        {"type": "message", "role": "user", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    output = live.post("/v1/responses/compact", {"input": said}).json()["output"]

    assert [item["type"] for item in output] == ["message", "message", "compaction"]


def test_conversations_are_written_and_kept_beside_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = calls_off_loop(monkeypatch, StoredResponses, "keep")
    compacted = calls_off_loop(monkeypatch, operations, "compacted")
    listed = calls_off_loop(monkeypatch, listing, "page")
    path = f"/v1/responses/{create(live, 'hello')['id']}/input_items"

    assert live.post("/v1/responses/compact", {"input": "a"}).status_code == 200
    assert live.http.get(path).status_code == 200
    assert (kept, compacted, listed) == ([True], [True], [True])


def test_events_that_repeat_long_settings_are_written_beside_the_event_loop(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = calls_off_loop(monkeypatch, ResponsesChunks, "last")
    tools = [{"type": "function", "name": f"f{n}", "description": "x" * 40_000} for n in range(2)]
    asked = {"input": "hello", "stream": True, "tool_choice": "none"}

    for more in ({"tools": tools}, {}):
        assert live.post("/v1/responses", {**asked, **more}).status_code == 200
    assert ends == [True, False]


class Answer(msgspec.Struct):
    id: str
    output: list[Any] = []


def keep(stored: StoredResponses, owner: bytes, text: str, number: Iterator[int], client: str = "::1") -> str:
    answer: Any = Answer(f"resp_{next(number)}")
    stored.keep(
        owner,
        client,
        answer,
        Conversation(),
        kept_items(ResponsesBody.read(json.dumps({"input": text}).encode()).items),
    )
    return str(answer.id)


def test_the_oldest_are_dropped() -> None:
    stored, number = StoredResponses(max_responses=2), itertools.count()
    first, *others = (keep(stored, ALICE, "hello", number) for _ in range(3))

    with refuses(HttpError, status=404):
        stored.require(ALICE, first)
    assert all(stored.require(ALICE, one) for one in others)


@pytest.mark.parametrize(("limit", "n_kept"), [({"max_responses": 3}, 3), ({"max_bytes": 7_000}, 4)])
def test_the_client_that_has_most_gives_way(limit: dict[str, int], n_kept: int) -> None:
    """Whoever shares the key could drop what others go on from."""
    stored, number = StoredResponses(**limit), itertools.count()
    first = keep(stored, ALICE, "x" * 1000, number)
    greedy = [keep(stored, ALICE, "x" * 1000, number, client="::2") for _ in range(20)]

    assert [*stored._responses] == [first, *greedy[1 - n_kept :]]


def test_what_they_hold_is_bounded() -> None:
    stored, number = StoredResponses(max_bytes=10_000), itertools.count()
    for _ in range(20):
        last = keep(stored, ALICE, "x" * 1000, number)

    assert stored._n_bytes <= 10_000
    assert stored._n_bytes == sum(one.n_bytes for one in stored._responses.values())
    assert len(stored._items) == len(stored._responses)
    stored.delete(ALICE, last)
    for response_id in [*stored._responses]:
        stored.delete(ALICE, response_id)
    assert not stored._items
    assert stored._n_bytes == 0


def test_what_is_larger_than_all_that_is_kept_drops_no_other() -> None:
    stored, number = StoredResponses(max_bytes=10_000), itertools.count()
    first = keep(stored, ALICE, "x" * 1000, number)
    keep(stored, ALICE, "x" * 20_000, number)

    assert [*stored._responses] == [first]


@pytest.mark.parametrize(("n_bytes", "is_kept"), [(5_000, True), (9_500, False), (20_000, False)])
def test_whether_there_is_room_is_told(n_bytes: int, is_kept: bool) -> None:
    """Where another client's has most of it, or it is too large alone."""
    stored, number, answer = StoredResponses(max_bytes=10_000), itertools.count(), cast(Any, Answer("resp"))
    keep(stored, ALICE, "x" * 7_000, number, client="::2")
    sent = kept_items(ResponsesBody(input="x" * (n_bytes - 700)).items)

    assert stored.keep(ALICE, "::1", answer, Conversation(), sent) == is_kept
    assert ("resp" in stored._responses) == is_kept


def test_a_conversation_that_goes_on_is_as_long_as_one_that_is_sent() -> None:
    stored = StoredResponses()
    answer: Any = Answer("resp_0")
    item = '{"role":"user","content":"a"}'
    stored.keep(
        ALICE,
        "::1",
        answer,
        Conversation(),
        kept_items(ResponsesBody.read(f'{{"input":[{",".join([item] * MAX_MESSAGES)}]}}'.encode()).items),
    )

    assert (
        len(stored.fill_in(ALICE, ResponsesBody(previous_response_id="resp_0", input=[])).earlier.items) == MAX_MESSAGES
    )
    with refuses(UsageError, param="previous_response_id"):
        stored.fill_in(ALICE, ResponsesBody(previous_response_id="resp_0", input="b"))


def referring(item_id: str, times: int = 1) -> ResponsesBody:
    references = [{"type": "item_reference", "id": item_id}] * times
    return ResponsesBody.read(json.dumps({"input": references}).encode())


def test_what_a_body_refers_to_has_with_it_no_more_bytes_than_a_body() -> None:
    """300 kB of references stood for 4 GB, and writing those ended the process."""
    stored = StoredResponses()
    (item,) = stored.require(ALICE, keep(stored, ALICE, "x" * 1_000_000, itertools.count())).items
    n_fit = MAX_BODY_BYTES // len(item.json)
    rest = MAX_BODY_BYTES - n_fit * len(item.json)

    assert stored.fill_in(ALICE, referring(item.id, n_fit), rest).json_bytes == MAX_BODY_BYTES - rest
    tracemalloc.start()
    try:
        for times, n_body_bytes in ((MAX_MESSAGES, 0), (n_fit, rest + 1)):
            too_many = referring(item.id, times)
            with refuses(UsageError, param=f"input[{min(times, n_fit + 1) - 1}].id"):
                stored.fill_in(ALICE, too_many, n_body_bytes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024**2


def test_what_a_body_goes_on_from_has_with_it_no_more_bytes_than_a_body() -> None:
    stored = StoredResponses()
    first: Any = Answer("resp_0")
    stored.keep(ALICE, "::1", first, Conversation(), kept_items(ResponsesBody(input="x" * 6_000_000).items))
    on = ResponsesBody(previous_response_id="resp_0", input="on")

    assert stored.fill_in(ALICE, on, 4_000_000).json_bytes > 6_000_000
    with refuses(UsageError, param="previous_response_id"):
        stored.fill_in(ALICE, on, 5_000_000)


def test_what_is_referred_to_is_kept_once() -> None:
    stored = StoredResponses()
    (item,) = stored.require(ALICE, keep(stored, ALICE, "hello", itertools.count())).items
    body = referring(item.id, 3)

    named = stored.fill_in(ALICE, body)
    assert all(kept is item for kept in kept_items(body.items, named.items))


@pytest.mark.parametrize("deleted", [0, 1])
def test_an_item_is_found_as_long_as_a_response_has_it(deleted: int) -> None:
    """It is in the conversations of several: of that with which it came, and of those that refer to it or go on."""
    stored, kept = StoredResponses(), [f"resp_{number}" for number in range(3)]
    first, second, third = (cast(Any, Answer(name)) for name in kept)
    stored.keep(ALICE, "::1", first, Conversation(), kept_items(ResponsesBody(input="hello").items))
    item_id = stored.require(ALICE, "resp_0").items[0].id
    body = referring(item_id)
    named = stored.fill_in(ALICE, body)
    stored.keep(ALICE, "::1", second, named.earlier, kept_items(body.items, named.items))
    goes_on = stored.fill_in(ALICE, ResponsesBody(previous_response_id="resp_1", input=[])).earlier
    stored.keep(ALICE, "::1", third, goes_on, ())
    del named, goes_on

    for response_id in (kept.pop(deleted), kept.pop(deleted)):
        stored.delete(ALICE, response_id)
        assert stored.fill_in(ALICE, referring(item_id)).items
    stored.delete(ALICE, kept.pop())
    with refuses(UsageError, param="input[0].id", varies="msg_[0-9a-f]+"):
        stored.fill_in(ALICE, referring(item_id))


def test_what_a_small_body_names_counts_until_the_answer_begins(serve: Servers) -> None:
    """As if it had been sent: many of them may wait."""
    intake = Intake()
    live = serve(intake=intake, ctx=16384)
    said = create(live, "x" * 10_000)["id"]
    items = live.http.get(f"/v1/responses/{said}/input_items").json()["data"]
    more = [{"type": "item_reference", "id": items[0]["id"]}] * 4
    live.hold()
    try:
        asking = threading.Thread(
            target=create, args=(live, ""), kwargs={"input": more, "previous_response_id": said, "truncation": "auto"}
        )
        asking.start()
        wait_until(lambda: intake.held > 4 * 10_000)
    finally:
        live.release()
    asking.join(PATIENCE_S)
    assert intake.held == 0


def test_each_key_has_its_own_items() -> None:
    stored, number = StoredResponses(), itertools.count()
    (item,) = stored.require(ALICE, keep(stored, ALICE, "hello", number)).items
    body = referring(item.id)

    with refuses(UsageError, param="input[0].id", varies="msg_[0-9a-f]+"):
        stored.fill_in(BOB, body)
    stored.fill_in(ALICE, body)
    assert body.input == [item.read()]


def test_no_reference_reaches_what_another_client_sent_with_an_id_of_its_own() -> None:
    """All clients may share one key, and an id that a client made can be guessed."""
    stored = StoredResponses()
    item = {"type": "message", "id": "msg_1", "role": "user", "content": "a secret"}
    answer: Any = Answer("resp_0")
    stored.keep(
        ALICE,
        "::1",
        answer,
        Conversation(),
        kept_items(ResponsesBody.read(json.dumps({"input": [item]}).encode()).items),
    )

    with refuses(UsageError, param="input[0].id"):
        stored.fill_in(ALICE, referring("msg_1"))
    (found,) = stored.fill_in(ALICE, ResponsesBody(previous_response_id="resp_0", input=[])).earlier.items
    assert found.id == "msg_1"


def test_a_conversation_that_goes_on_is_not_read_again_to_be_counted() -> None:
    """A stream keeps it in the event loop, and it may have 64 MB."""
    stored, unreadable = StoredResponses(), KeptItem("msg_0", b"no JSON", has_own_id=True)
    answer: Any = Answer("resp_0")
    stored.keep(
        ALICE, "::1", answer, Conversation((unreadable,), 1000), kept_items(ResponsesBody.read(b'{"input":"on"}').items)
    )
    (_, on), n_bytes = stored.require(ALICE, "resp_0").conversation

    assert n_bytes == 1000 + on.n_bytes


SAID: list[dict[str, Any]] = [
    {"role": "user", "content": "\U0001f600"},
    {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "a"},
    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": ""},
]


def test_items_come_back_as_they_were() -> None:
    items = ResponsesBody.read(json.dumps({"input": SAID}).encode()).items
    read = [item.read() for item in kept_items(items)]

    assert [msgspec.structs.replace(item, id=None) for item in read] == [
        msgspec.structs.replace(item, id=None) for item in items if item is not None
    ]
    assert all(item.id for item in read)
    assert [item.has_own_id for item in kept_items(items)] == [True, True, False, True, True]


@pytest.mark.parametrize("text", ["a" * 200_000 + "\U0001f600", ""], ids=["of four bytes a character", "small"])
def test_no_more_is_held_than_is_counted(text: str) -> None:
    """Text of Python takes four bytes a character where one needs them."""
    body = json.dumps({"input": [{"role": "user", "content": text}] * 5}, ensure_ascii=False).encode()
    stored, n_answers = StoredResponses(), 20
    tracemalloc.start()
    try:
        for number in range(n_answers):
            answer: Any = Answer(f"resp_{number}")
            stored.keep(ALICE, "::1", answer, Conversation(), kept_items(ResponsesBody.read(body).items))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < stored._n_bytes + n_answers * 1024


def test_what_a_stream_keeps_was_written_beside_the_event_loop(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    written = calls_off_loop(monkeypatch, operations, "kept_items")
    assert live.post("/v1/responses", {"input": "hello", "stream": True}).status_code == 200
    assert live.post("/v1/responses", {"input": "hello", "stream": True, "store": False}).status_code == 200
    assert live.post("/v1/responses/input_tokens", {"input": "hello"}).status_code == 200
    assert written == [True]
