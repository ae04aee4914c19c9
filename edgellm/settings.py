"""Where EdgeLLM keeps things, and what the environment may change.

EDGELLM_HOME       one folder for everything below (tests, portable installs)
EDGELLM_PLUGINS    comma-separated allow-list of plugins; empty string = none
EDGELLM_OFFLINE    1 = never touch the network
EDGELLM_MODELS     file with catalog rows of your own, instead of the usual one; empty = none
EDGELLM_MODELS_DIR folders with GGUF files of your own, separated as in PATH
EDGELLM_MAX_RATE   most bytes a second that a download takes, as 2MB/s
EDGELLM_ALLOW_HTTP 1 = fetch from http:// addresses of other machines, too
EDGELLM_API_KEY    key the server asks for
EDGELLM_LOG        how much the worker logs to standard error: DEBUG, INFO, WARNING, ERROR

config_dir()/models.toml    catalog rows of your own        (platformdirs user_config)
data_dir()/models/    model files, by sha256          (platformdirs user_data)
cache_dir()           measurements and probes         (platformdirs user_cache)
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from edgellm.errors import UsageError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def data_dir() -> Path:
    home = os.environ.get("EDGELLM_HOME")
    return Path(home) / "data" if home else Path(platformdirs.user_data_dir("edgellm"))


def config_dir() -> Path:
    home = os.environ.get("EDGELLM_HOME")
    return Path(home) / "config" if home else Path(platformdirs.user_config_dir("edgellm"))


def models_file() -> Path | None:
    """The user's own catalog file, None = there is none. One that EDGELLM_MODELS names must be there."""
    named = os.environ.get("EDGELLM_MODELS")
    if named is not None:
        return Path(named).expanduser() if named else None
    usual = config_dir() / "models.toml"
    return usual if usual.is_file() else None


def cache_dir() -> Path:
    home = os.environ.get("EDGELLM_HOME")
    return Path(home) / "cache" if home else Path(platformdirs.user_cache_dir("edgellm"))


def offline() -> bool:
    return os.environ.get("EDGELLM_OFFLINE", "") not in ("", "0", "false")


def allow_http() -> bool:
    return os.environ.get("EDGELLM_ALLOW_HTTP", "") not in ("", "0", "false")


def max_rate() -> str:
    """As the user wrote it; "" = no limit."""
    return os.environ.get("EDGELLM_MAX_RATE", "")


def models_dirs() -> tuple[Path, ...]:
    """Folders that the user keeps model files in."""
    value = os.environ.get("EDGELLM_MODELS_DIR", "")
    return tuple(Path(folder).expanduser() for folder in value.split(os.pathsep) if folder)


def plugin_allow_list() -> frozenset[str] | None:
    """None = every installed plugin."""
    value = os.environ.get("EDGELLM_PLUGINS")
    return None if value is None else frozenset(name.strip() for name in value.split(",") if name.strip())


def api_key() -> str | None:
    return os.environ.get("EDGELLM_API_KEY") or None


def log_level() -> str:
    """The worker's, as `logging` names it.

    Raises:
        UsageError: EDGELLM_LOG is no level.
    """
    value = os.environ.get("EDGELLM_LOG") or "ERROR"
    if value.upper() not in LOG_LEVELS:
        raise UsageError(f"EDGELLM_LOG={value!r} is no level", hint=f"one of {', '.join(LOG_LEVELS)}, or unset it")
    return value.upper()
