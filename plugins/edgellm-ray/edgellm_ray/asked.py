"""A request as the front keeps it until its answer has ended: it may be asked again."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from edgellm.errors import UsageError
from edgellm.server import clients
from edgellm.types.json_counts import check_counts
from edgellm_ray import caller
from edgellm_ray.affinity import session_of

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

SESSION_HEADER = "x-session-id"
WATCHED = "/edgellm/"
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "content-length", "content-encoding", "accept-encoding", "expect"}
)  # fmt: skip
_COUNTS = ("n", "n_cmpl", "best_of")  # of answers, by dialect
_MORE = ("logprobs", "top_logprobs", "n_probs", "return_tokens")  # than text: a part of it cannot be left out
_LOGPROBS = "message.output_text.logprobs"


class Meaning(NamedTuple):
    """What the front reads of a body."""

    session: str  # of its conversation; "" = none
    is_repeatable: bool  # the same answer comes again: greedy or with a seed, one answer, without probabilities
    takes_seed: bool = False  # it would come again with a seed, which the front may choose
    previous: str = ""  # the response that it goes on with
    model: str | None = None  # its name; None = none is named


class Asked:
    """One request, whole."""

    def __init__(self, scope: Scope, body: bytes, meaning: Meaning) -> None:
        self.scope = scope
        self.body = body
        self.seed = secrets.randbits(31)  # of an answer that has none, where boxes believe the front
        self.is_repeatable = meaning.is_repeatable or (meaning.takes_seed and caller.is_believed())
        self.gave_way = False  # it could be asked again, and was let go
        self.previous = meaning.previous
        self.model = meaning.model or _in_path(scope)
        # A digest: a session may be as long as headers may, and routers remember many.
        own = next((value for name, value in scope["headers"] if name.lower() == SESSION_HEADER.encode()), b"")
        self.session = hashlib.sha256(own).hexdigest()[:32] if own else meaning.session
        if not self.session and (scope["method"] == "GET" or scope["path"].startswith(WATCHED)):
            self.session = f"watches {clients.asks(scope)}"  # whoever looks on sees the same box each time

    def headers(self, tokens: Sequence[int] = ()) -> list[tuple[str, str]]:
        """Those that are passed on, who the client is, and how the answer goes on. `tokens`: those that it has."""
        pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"])
        own = {*HOP_BY_HOP, SESSION_HEADER, *caller.HEADERS}
        kept = [(name, value) for name, value in pairs if name.lower() not in own]
        address = caller.sealed(clients.asks(self.scope))
        continuation = caller.sealed_continuation(self.seed, tokens) if self.is_repeatable else None
        told = ((caller.HEADER, address), (caller.CONTINUATION_HEADER, continuation))
        return [*kept, *((name, value) for name, value in told if value)]

    def let_go(self) -> None:
        """It is not asked again."""
        self.gave_way, self.is_repeatable = self.is_repeatable, False
        self.body = b""


def target(scope: Scope) -> str:
    """Path and query, as they were sent."""
    query = scope["query_string"].decode("latin-1")
    path: str = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
    return f"{path}?{query}" if query else path


async def received(receive: Receive) -> bytes | None:
    """The body; None = the client went away before its end.

    Raises:
        HttpError, Overloaded: what `receive` raises.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def read(body: bytes) -> Meaning:
    """What a body asks for; nothing of one that no model would be asked with."""
    try:
        check_counts(body)
        fields = msgspec.json.decode(body)
    except (UsageError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Meaning("", False)
    if not isinstance(fields, dict):
        return Meaning("", False)
    previous = fields.get("previous_response_id")
    previous = previous if isinstance(previous, str) else ""
    session, is_single = session_of(fields), _is_single(fields)
    takes_seed = bool(session) and is_single and not _has_prompts(fields)
    return Meaning(session, is_single and _is_fixed(fields), takes_seed, previous, _model(fields))


def _model(fields: dict[str, Any]) -> str | None:
    """Ollama's older clients say `name`."""
    named = fields.get("model") or fields.get("name")
    return named if isinstance(named, str) else None


def _in_path(scope: Scope) -> str | None:
    """The model that is asked about by a path, or by the page in its query."""
    path: str = scope["path"]
    if path.startswith(WATCHED):
        named = parse_qs(scope["query_string"].decode("latin-1")).get("model")
        return named[0] if named else None
    marked, _, name = path.removeprefix("/v1").partition("/models/")
    return name if name and not marked else None


def _is_single(fields: dict[str, Any]) -> bool:
    """Whether it asks for one answer, of which nothing is told but its text."""
    drawn = _drawn(fields)
    include = fields.get("include")
    told = isinstance(include, list) and _LOGPROBS in include
    return all(drawn.get(name) in (None, 1) for name in _COUNTS) and not (told or any(map(drawn.get, _MORE)))


def _is_fixed(fields: dict[str, Any]) -> bool:
    """Whether the same tokens are drawn each time: greedy, or with a seed."""
    drawn = _drawn(fields)
    seed = drawn.get("seed")
    return drawn.get("temperature") == 0 or (isinstance(seed, int) and seed >= 0)


def _has_prompts(fields: dict[str, Any]) -> bool:
    """Whether there are several, which have an answer each."""
    prompt = fields.get("prompt")
    return isinstance(prompt, list) and len(prompt) > 1 and any(isinstance(one, str | list) for one in prompt)


def _drawn(fields: dict[str, Any]) -> dict[str, Any]:
    """With what Ollama's clients call options."""
    options = fields.get("options")
    return {**fields, **options} if isinstance(options, dict) else fields
