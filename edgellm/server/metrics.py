"""`/metrics`: counters since the start, in Prometheus' text format. What llama-server counts, too, has its names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from edgellm.server.served_model import ServedModel

MEDIA_TYPE = "text/plain; version=0.0.4"


class Metric(NamedTuple):
    """`label`: whose values have a number each; then `value` is their numbers by it."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float | Mapping[str, float]
    label: str = ""

    def text(self, own: Sequence[str]) -> str:
        """`own`: labels of all lines, as they are written."""
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        if isinstance(self.value, Mapping):
            by_label = sorted(self.value.items())
            lines += [self._line([f'{self.label}="{of}"', *own], number) for of, number in by_label]
        else:
            lines.append(self._line(own, self.value))
        return "\n".join(lines) + "\n"

    def _line(self, labels: Sequence[str], number: float) -> str:
        braced = f"{{{','.join(labels)}}}" if labels else ""
        return f"{self.name}{braced} {number:.10g}"


def metrics(served: ServedModel, service: str = "") -> str:
    """The body of the response. `service`: the name by which the model is served, where a node has several."""
    labels = [f'{label}="{_escaped(value)}"' for label, value in (("node", served.node), ("model", service)) if value]
    return "".join(metric.text(labels) for metric in (*_own(served), *_as_llama_server(served)))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _own(served: ServedModel) -> Iterator[Metric]:
    requests, totals, now = served.activity.requests, served.activity.totals, served.activity_report()
    yield Metric("edgellm_requests_total", "counter", "Requests that ended, by class of status.", requests.by_status,
                 "status")  # fmt: skip
    yield Metric("edgellm_request_errors_total", "counter", "Errors, by code.", requests.by_error, "code")
    for name, text, counted in (
        ("request_seconds", "Seconds from a request to the end of its response.", requests.seconds),
        ("ignored_fields", "Unknown fields in requests.", served.n_ignored),
        ("prompt_tokens", "Tokens of prompts that were computed.", totals.prompt_tokens),
        ("cached_tokens", "Tokens of prompts that an earlier request had computed.", totals.cached_tokens),
        ("prompt_seconds", "Seconds that prompts took.", totals.prompt_s),
        ("answer_tokens", "Tokens of answers.", totals.answer_tokens),
        ("answer_seconds", "Seconds that answers took after their prompts.", totals.answer_s),
        ("worker_restarts", "Workers that took the place of one that died.", served.llm.restarts),
    ):
        yield Metric(f"edgellm_{name}_total", "counter", text, counted)
    for name, text, value in (
        ("ready", "1 where requests are answered.", served.llm.state == "ready"),
        ("slots", "Answers that the model writes at a time.", now.n_slots),
        ("slots_busy", "Answers that have a slot.", now.n_busy),
        ("requests_waiting", "Answers that wait for one.", now.n_waiting),
        ("resident_bytes", "Memory of the process that runs the model.", now.resident_bytes),
    ):
        if value is not None:
            yield Metric(f"edgellm_{name}", "gauge", text, value)


def _as_llama_server(served: ServedModel) -> Iterator[Metric]:
    totals, now = served.activity.totals, served.activity_report()
    for name, text, counted in (
        ("prompt_tokens_total", "Tokens of prompts that were computed.", totals.prompt_tokens),
        ("prompt_tokens_cached_total", "Tokens of prompts that an earlier request had computed.", totals.cached_tokens),
        ("prompt_seconds_total", "Seconds that prompts took.", totals.prompt_s),
        ("tokens_predicted_total", "Tokens of answers.", totals.answer_tokens),
        ("tokens_predicted_seconds_total", "Seconds that answers took after their prompts.", totals.answer_s),
        ("n_tokens_max", "Tokens of the longest prompt with its answer.", totals.longest),
    ):
        yield Metric(f"llamacpp:{name}", "counter", text, counted)
    for name, text, value in (
        ("prompt_tokens_seconds", "Prompt tokens a second, on average.", totals.prompt_tok_s),
        ("predicted_tokens_seconds", "Tokens of answers a second, on average.", totals.answer_tok_s),
        ("requests_processing", "Answers that have a slot.", now.n_busy),
        ("requests_deferred", "Answers that wait for one.", now.n_waiting),
    ):
        yield Metric(f"llamacpp:{name}", "gauge", text, value)
