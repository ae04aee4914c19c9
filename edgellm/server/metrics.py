"""`/metrics`: counters since the start, in Prometheus' text format. What llama-server counts, too, has its names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from edgellm.server.served_model import ServedModel

MEDIA_TYPE = "text/plain; version=0.0.4"


class Metric(NamedTuple):
    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float

    def text(self) -> str:
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n{self.name} {self.value:.10g}\n"


def metrics(served: ServedModel) -> str:
    """The body of the response."""
    return "".join(metric.text() for metric in _metrics(served))


def _metrics(served: ServedModel) -> Iterator[Metric]:
    yield Metric("edgellm_ignored_fields_total", "counter", "Unknown fields in requests.", served.n_ignored)
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
