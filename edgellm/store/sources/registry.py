"""Which sources there are: the built-in ones (`file hf http https ollama pypi`) and those of plugins."""

from __future__ import annotations

from functools import cache

from edgellm.contract.answers import plugin_of
from edgellm.contract.manager import plugins
from edgellm.contract.source import Source, scheme_of
from edgellm.errors import SourceError
from edgellm.store.sources import asking


@cache
def sources() -> dict[str, Source]:
    """Scheme -> source. A plugin cannot replace a built-in scheme."""
    by_scheme: dict[str, Source] = {}

    def register(scheme: str, source: Source) -> None:
        if scheme in by_scheme:
            taker = plugin_of(scheme, "register_sources", unknown="another")
            raise ValueError(f"source scheme {scheme!r} is already taken by {taker}")
        by_scheme[scheme] = source

    plugins().call("register_sources", register=register)
    return by_scheme


def source_for(uri: str) -> Source:
    """The source that serves `uri`.

    Raises:
        SourceError: no source has that scheme.
    """
    scheme = scheme_of(uri)
    source = sources().get(scheme)
    if source is None:
        known = ", ".join(sorted(sources()))
        raise SourceError(f"no source for {uri!r}", hint=f"schemes: {known}{plugins().suspects('register_sources')}")
    return source


def unreachable(timeout_s: float = 5.0, examples: dict[str, str] | None = None) -> dict[str, str]:
    """Scheme -> reason for every source that does not answer, all asked at once.

    `examples` gives a URI to ask for by scheme, which makes the answer of a package index exact.
    """
    from concurrent.futures import ThreadPoolExecutor

    by_scheme, uris = sources(), examples or {}
    with ThreadPoolExecutor(len(by_scheme), "edgellm-sources") as pool:
        answers = {
            s: pool.submit(asking.reachable, source, timeout_s, uris.get(s, "")) for s, source in by_scheme.items()
        }
        reasons = {scheme: answer.result() for scheme, answer in answers.items()}
    return {scheme: reason for scheme, reason in sorted(reasons.items()) if reason}
