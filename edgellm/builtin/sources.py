"""The built-in model sources, registered as a plugin registers its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from edgellm.contract.source import Source


@hookimpl
def register_sources(register: Callable[[str, Source], None]) -> None:
    # Imported when the first source is asked for, which many commands never do.
    from edgellm.store.sources.https import Https
    from edgellm.store.sources.hub import Hub
    from edgellm.store.sources.local_file import LocalFile
    from edgellm.store.sources.ollama import Ollama
    from edgellm.store.sources.pypi import Pypi

    web = Https()
    register("file", LocalFile())
    register("hf", Hub())
    register("http", web)
    register("https", web)
    register("ollama", Ollama())
    register("pypi", Pypi())
