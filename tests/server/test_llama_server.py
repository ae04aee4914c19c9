"""llama-server's own routes: what its clients send, and what they read."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from support.live_server import Live, Servers
from support.refusals import refuses
from support.waiting import PATIENCE_S

from edgellm import EdgeLLM
from edgellm.errors import UsageError
from edgellm.runtime.long_text import LONG_TEXT
from edgellm.server.dialects.llama_server.bodies import LlamaCompletionBody
from edgellm.types.sampling import MAX_BIASES


def completion(live: Live, **body: Any) -> Any:
    answer = live.post("/completion", {"prompt": "hello", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(block.removeprefix("data: ")) for block in answer.text.split("\n\n")[:-1]]


def test_a_completion(live: Live) -> None:
    answer = completion(live)

    assert answer["content"] == "hello"
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "eos", "")
    assert answer["tokens_predicted"] == 5
    assert answer["tokens_evaluated"] == answer["timings"]["prompt_n"] + answer["tokens_cached"]
    assert answer["model"] == "echo"
    assert answer["prompt"] == "hello"
    assert answer["generation_settings"]["n_predict"] == -1


@pytest.mark.parametrize(
    ("body", "content", "stop_type"),
    [
        ({"n_predict": 2}, "he", "limit"),
        ({"n_predict": -1}, "hello", "eos"),
        ({"stop": ["lo"]}, "hel", "word"),
        ({"stop": "lo"}, "hel", "word"),
    ],
)
def test_where_it_ends(live: Live, body: dict[str, Any], content: str, stop_type: str) -> None:
    answer = completion(live, **body)

    assert (answer["content"], answer["stop_type"]) == (content, stop_type)
    assert answer["stopping_word"] == ("lo" if stop_type == "word" else "")


def test_a_stream_has_no_done(live: Live) -> None:
    events = chunks(live.post("/completion", {"prompt": "hé\nllo", "stream": True}))

    assert "".join(event["content"] for event in events) == "hé\nllo"
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["stop_type"] == "eos"


def test_several_prompts_are_a_list(live: Live) -> None:
    answers = completion(live, prompt=["a", "bc"], n_cmpl=2)

    assert [(answer["index"], answer["content"]) for answer in answers] == [(0, "a"), (1, "a"), (2, "bc"), (3, "bc")]
    assert [answer["prompt"] for answer in answers] == ["a", "a", "bc", "bc"]


def test_tokens_and_their_probabilities(live: Live) -> None:
    plain, told = completion(live), completion(live, n_probs=2, return_tokens=True)

    assert "completion_probabilities" not in plain
    assert plain["tokens"] == []
    assert len(told["tokens"]) == 5
    first = told["completion_probabilities"][0]
    assert (first["token"], first["bytes"], first["id"]) == ("h", [104], told["tokens"][0])
    assert len(first["top_logprobs"]) == 2
    streamed = chunks(live.post("/completion", {"prompt": "hello", "stream": True, "n_probs": 2}))
    assert [one["token"] for event in streamed for one in event["completion_probabilities"]] == list("hello")


def test_only_some_fields(live: Live) -> None:
    fields = ["content", "generation_settings/n_predict", "nothing", "content/x"]

    assert completion(live, response_fields=fields, n_predict=3) == {
        "content": "hel",
        "generation_settings/n_predict": 3,
    }
    assert completion(live, response_fields=[])["stop"] is True


@pytest.mark.parametrize("bias", [[[0, -1.5], [1, False]], {"0": -1.5, "1": False}, [["\0\1\0", False]]])
def test_biases(live: Live, bias: Any) -> None:
    assert completion(live, logit_bias=bias)["content"] == "hello"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"logit_bias": [[0]]}, "usage_error", "logit_bias"),
        ({"logit_bias": 3}, "usage_error", "logit_bias"),
        ({"logit_bias": [[0, "x"]]}, "usage_error", "logit_bias"),
        ({"prompt": []}, "usage_error", "prompt"),
        ({"prompt": 3}, "usage_error", "prompt"),
        ({"mirostat": 1}, "unsupported_field", "mirostat"),
        ({"dynatemp_range": 1.0}, "unsupported_field", "dynatemp_range"),
        ({"temperature": 1000.0}, "usage_error", "temperature"),
        ({"n_probs": 21}, "usage_error", "n_probs"),
        ({"grammar": "root ::= ("}, "usage_error", "grammar"),
        pytest.param({"logit_bias": [[0, 10**400]]}, "usage_error", "logit_bias", id="a bias that no float holds"),
        pytest.param({"logit_bias": [["x" * 200_000, 1]]}, "usage_error", "logit_bias", id="a long text to bias"),
        pytest.param({"response_fields": ["/" * 300]}, "usage_error", "response_fields[0]", id="a long path"),
        pytest.param({"prompt": ["x" * 70_000] * 2, "n_cmpl": 128}, "usage_error", "n_cmpl", id="prompts come back"),
        pytest.param(
            {"prompt": ["x"] * 2048, "stop": ["y" * 1024] * 16}, "usage_error", "prompt", id="settings come back"
        ),
    ],
    ids=str,
)
def test_what_is_refused_is_named(live: Live, body: dict[str, Any], code: str, param: str) -> None:
    answer = live.post("/completion", {"prompt": "hello", **body})

    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


def test_values_below_zero_are_as_llama_server_has_them(live: Live) -> None:
    settings = completion(live, temperature=-1.0, top_k=-1, seed=-1)["generation_settings"]

    assert (settings["temperature"], settings["top_k"], settings["seed"]) == (0.0, 0, -1)


def test_what_a_text_is_biased_by_counts_for_all_of_its_tokens(live: Live) -> None:
    assert "l" not in completion(live, logit_bias=[["ll", -100]], n_predict=4)["content"]


def texts_asked(llm: EdgeLLM, patch: pytest.MonkeyPatch) -> list[str]:
    """Texts whose tokens the model is asked for from now on."""
    asked, submit = list[str](), llm._session.submit

    def noting(request: Any, sink: Any) -> int:
        asked.append(request.text)
        return submit(request, sink)

    patch.setattr(llm._session, "submit", noting)
    return asked


def test_tokens_of_biases_are_counted_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here each text has as many as there are letters in ASCII, and is as long as is asked for at a time."""
    texts = ["".join(map(chr, range(128))) * (LONG_TEXT // 128) + str(at) for at in range(12)]
    with EdgeLLM.load("echo") as llm:
        body = LlamaCompletionBody.read(
            json.dumps({"prompt": "a", "logit_bias": [[text, 1] for text in texts]}).encode()
        )
        asked = texts_asked(llm, monkeypatch)
        with refuses(UsageError, param="logit_bias"):
            body.to_requests(llm)

    assert asked == texts[: MAX_BIASES // 128 + 1]


def test_nothing_is_asked_where_a_bias_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with EdgeLLM.load("echo") as llm:
        body = LlamaCompletionBody.read(b'{"prompt": "a", "logit_bias": [["ll", 1], ["l"]]}')
        asked = texts_asked(llm, monkeypatch)
        with refuses(UsageError, param="logit_bias"):
            body.to_requests(llm)

    assert not asked


def test_a_text_of_a_bias_is_made_tokens_once_for_all_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    with EdgeLLM.load("echo") as llm:
        body = LlamaCompletionBody.read(b'{"prompt": ["a", [98], "c"], "n_cmpl": 2, "logit_bias": [["ll", -100]]}')
        asked = texts_asked(llm, monkeypatch)
        requests = body.to_requests(llm)

    assert asked == ["ll"]
    assert [(one.prompt, one.n) for one in requests] == [("a", 2), ((98,), 2), ("c", 2)]
    assert {one.sampling.logit_bias for one in requests} == {((108, -100.0),)}


@pytest.mark.parametrize(
    "prompt",
    [{"prompt_string": "hello"}, {"content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}],
    ids=["prompt_string", "content"],
)
def test_a_prompt_in_an_object(live: Live, prompt: Any) -> None:
    assert completion(live, prompt=prompt)["content"] == "hello"
    answers = completion(live, prompt=[prompt, "a", [98]])
    assert [answer["prompt"] for answer in answers] == ["hello", "a", [98]]


@pytest.mark.parametrize(
    "prompt",
    [{}, {"prompt_string": 3}, {"prompt_string": "a", "x": 1}, {"content": "a"}, {"content": [{"type": "image_url"}]}],
    ids=str,
)
def test_other_objects_are_no_prompt(live: Live, prompt: Any) -> None:
    assert live.post("/completion", {"prompt": prompt}).json()["error"]["param"] == "prompt"


def test_progress_and_timings_while_it_answers(live: Live) -> None:
    body = {"prompt": "hello", "stream": True, "return_progress": True, "timings_per_token": True, "n_probs": 1}
    events = chunks(live.post("/completion", body))

    told = [event for event in events if "prompt_progress" in event]
    first, last = told[0], told[-1]
    assert first["prompt_progress"]["processed"] == first["prompt_progress"]["cache"]
    assert (first["timings"]["prompt_n"], first["timings"]["prompt_ms"]) == (0, 0.0)
    assert last["prompt_progress"]["processed"] == last["prompt_progress"]["total"]
    tokens = [event for event in events[:-1] if "prompt_progress" not in event]
    assert [len(event["completion_probabilities"]) for event in tokens] == [1, 1, 1, 1, 1]
    assert tokens[-1]["timings"]["predicted_n"] == 5
    assert "".join(event["content"] for event in tokens) == "hello"


def test_nothing_is_reused_where_that_is_asked(live: Live) -> None:
    (kept,) = LlamaCompletionBody(prompt="a").to_requests(live.llm)
    (anew,) = LlamaCompletionBody(prompt="a", cache_prompt=False).to_requests(live.llm)

    assert (kept.reuse, anew.reuse) == (True, False)


def metrics(live: Live) -> dict[str, float]:
    lines = live.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def test_what_is_counted_has_the_names_of_llama_cpp(live: Live) -> None:
    before = metrics(live)
    timings = [completion(live, n_predict=n, n_cmpl=2)[0]["timings"] for n in (1, 4)]
    after = metrics(live)

    def more(name: str) -> float:
        return after[f"llamacpp:{name}"] - before[f"llamacpp:{name}"]

    assert more("tokens_predicted_total") == 2 * (1 + 4)
    assert more("prompt_tokens_total") == sum(timing["prompt_n"] for timing in timings)
    assert more("prompt_tokens_cached_total") == sum(timing["cache_n"] for timing in timings)
    assert (after["llamacpp:requests_processing"], after["llamacpp:requests_deferred"]) == (0, 0)


def test_text_to_tokens_and_back(live: Live) -> None:
    tokens = live.post("/tokenize", {"content": "hé🎈"}).json()["tokens"]

    assert len(tokens) == len("hé🎈".encode())
    assert live.post("/detokenize", {"tokens": tokens}).json() == {"content": "hé🎈"}
    pieces = live.post("/tokenize", {"content": "hé", "with_pieces": True}).json()["tokens"]
    assert [piece["piece"] for piece in pieces] == ["h", [0xC3], [0xA9]]


def test_of_tokens_that_come_again_one_piece_is_asked_for(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million tokens of three kinds kept a processor busy for seconds."""
    asked: list[int] = []
    apieces = live.llm.apieces
    monkeypatch.setattr(live.llm, "apieces", lambda ids: asked.extend(ids) or apieces(ids))
    told = live.post("/tokenize", {"content": "hé" * 3000, "with_pieces": True}).json()["tokens"]

    three = [{"id": ord("h"), "piece": "h"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0xA9, "piece": [0xA9]}]
    assert told == three * 3000
    assert asked == [one["id"] for one in three]
    assert live.post("/tokenize", {"content": "", "with_pieces": True}).json() == {"tokens": []}


def test_tokens_that_are_none_are_refused(live: Live) -> None:
    assert live.post("/detokenize", {"tokens": [10**9]}).status_code == 400
    assert live.post("/detokenize", {"tokens": ["a"]}).status_code == 400
    assert live.post("/detokenize", {"tokens": [-1]}).status_code == 400
    assert live.post("/detokenize", {"tokens": [2**70]}).status_code == 400
    assert live.post("/tokenize", {}).json()["error"]["param"] == "content"


def test_the_prompt_of_a_conversation(live: Live) -> None:
    conversation = {"messages": [{"role": "user", "content": "hello"}]}

    prompt = live.post("/apply-template", conversation).json()["prompt"]
    assert "hello" in prompt
    n_tokens = live.post("/v1/chat/completions/input_tokens", conversation).json()["input_tokens"]
    assert n_tokens == live.post("/v1/chat/completions", conversation).json()["usage"]["prompt_tokens"]
    assert live.post("/chat/completions/input_tokens", conversation).json()["input_tokens"] == n_tokens


def test_what_the_server_tells_of_itself(live: Live) -> None:
    props, settings = live.http.get("/props").json(), live.llm.plan.settings

    assert props["total_slots"] == settings.n_slots
    assert props["default_generation_settings"]["n_ctx"] == settings.n_ctx
    assert props["default_generation_settings"]["params"]["temperature"] == live.llm.plan.sampling.values.temperature
    slots = live.http.get("/slots").json()
    assert [slot["is_processing"] for slot in slots] == [False] * settings.n_slots
    assert "prompt" not in slots[0]


def test_nothing_of_it_can_be_changed(live: Live) -> None:
    assert live.post("/props", {}).status_code == 405
    assert live.post("/slots/0", {"action": "save"}).status_code == 404


def test_a_model_without_markers_does_not_fill_in(live: Live) -> None:
    answer = live.post("/infill", {"input_prefix": "a", "input_suffix": "b"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_field")
    assert "no input_suffix" in answer.text
    assert " suffix" not in answer.text


def test_a_busy_slot_is_told(serve: Servers) -> None:
    live = serve(step_s=0.02)
    body = {"prompt": "hello" * 100, "stream": True}
    with httpx.stream("POST", f"{live.url}/completion", json=body, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()  # kept: one that is thrown away hangs up
        next(lines)
        assert [slot["is_processing"] for slot in live.http.get("/slots").json()] == [True]
