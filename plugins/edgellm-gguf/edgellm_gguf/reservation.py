"""What libllama would reserve on devices for one batch of a plan: asked of it, in a process of its own, before a load.

Nothing here imports `llama_cpp`, and no weights are read: a second, once for a file, its settings and the library.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import msgspec

from edgellm import settings
from edgellm.contract.child import ask
from edgellm.contract.probe import kept
from edgellm.errors import BackendUnavailable
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import library

PATIENCE_S = 60.0


class Reservation(msgspec.Struct):
    """What is kept of the library's answer."""

    scratch: dict[str, int]  # device -> bytes, as the library logs them: 10 kB are the error of each


def scratch(artifact: Artifact, run: Settings) -> dict[str, int]:
    """As `edgellm.contract.backend.Reserver.scratch`.

    Raises:
        BackendUnavailable: the library does not tell, with its own words.
    """
    question = msgspec.json.encode(LaunchPlan("gguf", artifact, replace(run, n_threads=1, n_threads_batch=1)))
    stamps = [(about.st_size, about.st_mtime_ns) for about in map(os.stat, artifact.paths)]
    asked_of = f"{library.circumstances()} {stamps} ".encode() + question
    name = hashlib.sha256(asked_of).hexdigest()[:32]
    path = settings.current().cache_dir / "gguf-reserved" / f"{name}.json"
    return kept(path, Reservation, lambda: (_asked(question), True)).scratch


def _asked(question: bytes) -> Reservation:
    env = {**library.ENVIRONMENT, **settings.variables()}
    answer, end = ask("edgellm_gguf.reserve", question=question, env=env, timeout_s=PATIENCE_S)
    if end.returncode:
        late = f"it did not answer within {PATIENCE_S:.0f} s" if end.timed_out else ""
        died = f"it died of {end.signal}" if end.signal else ""
        why = late or died or end.last_words or "no answer"
        hint = "`edgellm doctor` says what the library was built for"
        raise BackendUnavailable(f"libllama does not tell what it would reserve: {why}", hint=hint)
    return msgspec.json.decode(answer, type=Reservation)
