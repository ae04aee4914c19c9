"""What `edgellm doctor` reads from storage, and an anonymous dump of its report for bug reports."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgellm import settings
from edgellm.files import expanded

if TYPE_CHECKING:
    from edgellm.history.run_log import History
    from edgellm.selection.backend_facts import BackendFacts
    from edgellm.store.manifest import StoredModel
    from edgellm.types.machine import Machine

SHOWN_RUNS = 50
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
# Environment variables that change what EdgeLLM does, beside its own.
VARIABLES = (
    "CMAKE_ARGS",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "LLAMA_CPP_LIB_PATH",
    "OLLAMA_MODELS",
)


def settings_in_use() -> dict[str, Any]:
    """Folders and variables; for a secret, only that it is set."""
    names = sorted({*VARIABLES, *(name for name in os.environ if name.startswith("EDGELLM_"))} & os.environ.keys())
    variables = {name: "(set)" if SECRET.search(name) else os.environ[name] for name in names}
    return {
        "data": str(settings.current().data_dir),
        "cache": str(settings.current().cache_dir),
        "variables": variables,
    }


def stored_models(entries: Iterable[StoredModel]) -> list[dict[str, Any]]:
    from edgellm import explain

    return [
        {
            "model": entry.model_id,
            "quant": entry.quant,
            "format": entry.format,
            "bytes": entry.bytes,
            "problem": explain.stored(entry.problem),
            "problem_facts": explain.facts(entry.problem),
        }
        for entry in entries
    ]


def calibrations(facts: Mapping[str, BackendFacts]) -> dict[str, Any]:
    """By backend, as a profile states it; null where nothing was measured."""
    from edgellm.history.calibrations import stated

    measured = {name: f.calibration or f.set_aside for name, f in facts.items()}
    return {name: None if rates is None else stated(rates) for name, rates in measured.items()}


def history_of(machine: Machine, facts: Mapping[str, BackendFacts]) -> tuple[History, dict[str, Any]]:
    """What is known of this machine; and for programs: corrections in force, vetoes, drift, the latest runs."""
    import msgspec

    from edgellm import explain
    from edgellm.app import verify
    from edgellm.contract.manager import plugins
    from edgellm.history import fingerprint, run_log

    log = run_log.read(machine)
    ran = {run.backend for run in log.runs} & facts.keys()
    bases: dict[str, str] = {}
    for name in sorted(ran):
        bases |= fingerprint.bases(plugins().backend(name), facts[name].calibration)
    learned = run_log.of_runs(log.runs, bases, machine.compute_threads)
    rows = [
        {"backend": backend, "model": model, "quant": quant, "kv_type": kv_type, "place": msgspec.to_builtins(place)}
        | explain.plain(correction)
        for place in (None, *learned.places)
        for (backend, model, quant, kv_type), correction in learned.on(place).rows.items()
    ]
    vetoes = [
        {"backend": backend, "model": model, "quant": quant, "reason": why}
        for (backend, model, quant), why in run_log.vetoes(machine).items()
    ]
    drifts = verify.latest_drifts(log.runs, bases)
    return log, {
        "path": str(log.path),
        "lines": len(log.rows),
        "skipped": log.skipped,
        "bases": bases,
        "corrections": rows,
        "vetoes": vetoes,
        "drift": [
            {"text": explain.drift(drift), "fix": explain.drift_remedy(drift), "what": drift.quantity}
            for drift in drifts
        ],
        "drift_facts": list(map(explain.facts, drifts)),
        "runs": msgspec.to_builtins(log.runs[-SHOWN_RUNS:]),
        "benches": msgspec.to_builtins(log.benches[-SHOWN_RUNS:]),
        "checks": msgspec.to_builtins(log.checks[-SHOWN_RUNS:]),
    }


def anonymous(report: Any) -> Any:
    """The same without the user's folder, name and secrets, wherever they stand."""
    home = str(expanded("~"))
    hidden = [(value, "(set)") for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8]
    replacements = [*hidden, *([(home, "~")] if len(home) > 1 else [])]
    user = _user()
    # As a whole word only. Names such as root and user say nothing about a person.
    name = re.compile(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])") if user else None
    return _cleaned(report, replacements, name)


def _user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
    return "" if user in ("root", "user", "admin", "runner", "ubuntu") or len(user) < 3 else user


def _cleaned(value: Any, replacements: list[tuple[str, str]], name: re.Pattern[str] | None) -> Any:
    if isinstance(value, dict):
        return {_cleaned(key, replacements, name): _cleaned(item, replacements, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, replacements, name) for item in value]
    if not isinstance(value, str):
        return value
    for secret, replacement in replacements:
        value = value.replace(secret, replacement)
    return name.sub("(user)", value) if name is not None else value
