"""What is asked of a stored response goes where it was made."""

from __future__ import annotations

import json

from edgellm_ray import asked
from edgellm_ray.responses import Responses


def test_what_names_a_response_has_its_session() -> None:
    responses = Responses()
    responses.learn({"id": "resp_1", "object": "response"}, "one")
    responses.learn({"type": "response.created", "response": {"id": "resp_2"}}, "two", "chat")

    assert responses.session_of("/v1/responses/resp_1", "") == "one"
    assert responses.session_of("/v1/responses/resp_1/input_items", "") == "one"
    assert responses.session_of("/v1/responses", "resp_2") == "two"
    assert responses.model_of("/v1/responses/resp_2") == "chat"
    assert responses.session_of("/v1/responses", "") == responses.session_of("/v1/responses/resp_3", "") == ""


def test_the_oldest_are_forgotten_and_what_is_none_is_not_learned() -> None:
    responses = Responses(most=2)
    for number in range(4):
        responses.learn({"id": f"resp_{number}"}, "one")
    for data in ({}, {"id": 5}, {"response": []}, {"error": {"code": "x"}}):
        responses.learn(data, "one")

    assert [responses.session_of("/v1/responses", f"resp_{number}") for number in range(4)] == ["", "", "one", "one"]


def test_a_body_names_what_it_goes_on_with() -> None:
    assert asked.read(json.dumps({"input": "And?", "previous_response_id": "resp_1"}).encode()).previous == "resp_1"
    assert asked.read(b'{"previous_response_id": 5}').previous == ""
