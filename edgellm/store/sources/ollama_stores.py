"""Where Ollama keeps its models on this machine. Apart from its registry's client, which takes 40 ms to import."""

from __future__ import annotations

import os
from pathlib import Path

_SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


def stores() -> list[Path]:
    """Ollama's stores on this machine that can be read."""
    named = os.environ.get("OLLAMA_MODELS")
    places = [Path(named).expanduser()] if named else [Path.home() / ".ollama" / "models", _SERVICE_STORE]
    return [place for place in places if os.access(place / "manifests", os.R_OK | os.X_OK)]
