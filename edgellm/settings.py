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
EDGELLM_HUNG_AFTER seconds of silence after which a worker counts as hung, 0 = never; unset = by the predicted speed
EDGELLM_LOG_FORMAT how log lines look: text, json
EDGELLM_HOST       address and
EDGELLM_PORT       port that `edgellm serve` listens on
EDGELLM_SERVER_MEMORY  most that the process of `edgellm serve` takes beyond its start, as 512MiB; 0 = no limit
EDGELLM_OLLAMA_PORT  a second port, where clients of Ollama look
EDGELLM_PYTHON     the Python that helper processes run in, with edgellm in it; unset = the one that runs
EDGELLM_DEVICE     GPUs to use, by the names that `edgellm doctor` shows, separated by commas; unset = all
EDGELLM_LLAMA_BUILD  what set-up builds of llama.cpp: native, variants

Backends read variables of their own, which begin with EDGELLM_ and their name; any other means nothing (`strangers`).

config folder/models.toml   catalog rows of your own        (platformdirs user_config)
data_dir/models/      model files, by sha256          (platformdirs user_data)
cache_dir             measurements and probes         (platformdirs user_cache)

The flags of a command that say the same (`--offline`, `--models-dir`, `--max-rate`, `--log-level`) hold while the
command runs (`override`). They never touch this process's environment; a process that it starts gets them by
`variables()`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from edgellm.errors import UsageError
from edgellm.files import expanded, nearest_existing
from edgellm.units import MIB, parse_bytes, parse_rate, show_memory

_OFF, _ON = ("", "0", "false", "no", "off"), ("1", "true", "yes", "on")
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LEAST_SERVER_BYTES = 32 * MIB  # one body at its bound, and what is made of it
LEAST_SECONDS, MOST_SECONDS = 1, 86400  # a healthy worker may be silent for half a second
# Of names of variables. What a process does not get, native code that reads a hostile file in it cannot pass on.
_SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY|CREDENTIAL)S?(_|$)|(^|_)KEYS?(_|$)", re.IGNORECASE
)
PREFIX = "EDGELLM_"
_NAMES = (
    "HOME", "PLUGINS", "OFFLINE", "MODELS", "MODELS_DIR", "MAX_RATE", "ALLOW_HTTP", "API_KEY", "LOG", "LOG_FORMAT",
    "HUNG_AFTER", "SERVER_MEMORY", "HOST", "PORT", "OLLAMA_PORT", "LLAMA_BUILD", "DEVICE", "PYTHON",
)  # fmt: skip
NAMES = frozenset(PREFIX + name for name in _NAMES)


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment's variables, understood."""

    home: Path | None = None  # None = the user's own folders
    plugins: frozenset[str] | None = None  # None = every installed plugin
    offline: bool = False
    models: str | None = None  # the user's own catalog file, as they wrote it; "" = none, None = the usual one
    models_dirs: tuple[Path, ...] = ()  # folders that the user keeps model files in
    max_rate: str = ""  # as the user wrote it; "" = no limit
    allow_http: bool = False
    api_key: str | None = None
    log: str = "ERROR"  # as the user wrote it
    hung_after: str = ""  # as the user wrote it; "" = by the predicted speed
    server_memory: str = ""  # as the user wrote it; "" = by the machine's memory
    log_format: str = "text"  # as the user wrote it
    python: str = ""  # as the user wrote it; "" = the one that runs
    devices: tuple[str, ...] = ()  # GPUs to use, as backends name them; empty = all

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Environment:
        home = Path(values["EDGELLM_HOME"]) if values.get("EDGELLM_HOME") else None
        plugins = values.get("EDGELLM_PLUGINS")
        names = None if plugins is None else frozenset(name.strip() for name in plugins.split(",") if name.strip())
        folders = values.get("EDGELLM_MODELS_DIR", "").split(os.pathsep)
        return cls(
            home=home,
            plugins=names,
            offline=_is_on(values.get("EDGELLM_OFFLINE", "")),
            models=values.get("EDGELLM_MODELS"),
            models_dirs=tuple(expanded(folder) for folder in folders if folder),
            max_rate=values.get("EDGELLM_MAX_RATE", ""),
            allow_http=_is_on(values.get("EDGELLM_ALLOW_HTTP", "")),
            api_key=values.get("EDGELLM_API_KEY") or None,
            log=values.get("EDGELLM_LOG") or "ERROR",
            hung_after=values.get("EDGELLM_HUNG_AFTER", ""),
            server_memory=values.get("EDGELLM_SERVER_MEMORY", ""),
            log_format=values.get("EDGELLM_LOG_FORMAT") or "text",
            python=values.get("EDGELLM_PYTHON", ""),
            devices=tuple(name.strip() for name in values.get("EDGELLM_DEVICE", "").split(",") if name.strip()),
        )

    @property
    def data_dir(self) -> Path:
        return self._folder_of(self.home) / "data" if self.home else Path(platformdirs.user_data_dir("edgellm"))

    @property
    def cache_dir(self) -> Path:
        return self._folder_of(self.home) / "cache" if self.home else Path(platformdirs.user_cache_dir("edgellm"))

    @property
    def models_file(self) -> Path | None:
        """The user's own catalog file; one that EDGELLM_MODELS names must be there.

        Raises:
            UsageError: that one is not there, or the folder of the usual one cannot be entered.
        """
        if self.models == "":
            return None
        if self.models is not None:
            named = expanded(self.models)
            if not named.is_file():
                hint = "give a file that exists, or unset it"
                raise UsageError(f"EDGELLM_MODELS={self.models}: no file is there that this user can read", hint=hint)
            return named
        own = self.home and self._folder_of(self.home) / "config"
        folder = own or Path(platformdirs.user_config_dir("edgellm"))
        if not _can_be_entered(folder):
            hint = "see to its permissions, or set EDGELLM_HOME to a folder of this user's"
            raise UsageError(f"{folder} cannot be entered by this user{_uid()}", hint=hint)
        usual = folder / "models.toml"
        return usual if usual.is_file() else None

    @staticmethod
    def _folder_of(home: Path) -> Path:
        """
        Raises:
            UsageError: EDGELLM_HOME is a file, lies below one, or cannot be entered.
        """
        if not (place := nearest_existing(home)).is_dir():
            hint = "name a folder, which is made where it does not exist, or unset it"
            raise UsageError(f"EDGELLM_HOME={home}: {place} is a file", hint=hint)
        if not _can_be_entered(home):
            hint = f"see to the permissions of {place}, or name another folder"
            raise UsageError(f"EDGELLM_HOME={home} cannot be entered by this user{_uid()}", hint=hint)
        return home

    @property
    def log_level(self) -> str:
        """The worker's, as `logging` names it.

        Raises:
            UsageError: EDGELLM_LOG is no level.
        """
        if self.log.upper() not in LOG_LEVELS:
            hint = f"one of {', '.join(LOG_LEVELS)}, or unset it"
            raise UsageError(f"EDGELLM_LOG={self.log!r} is not a log level", hint=hint)
        return self.log.upper()

    @property
    def hung_after_s(self) -> float | None:
        """0 = never, None = by the predicted speed.

        Raises:
            UsageError: EDGELLM_HUNG_AFTER is not a number of seconds, or fewer than a healthy worker may be silent.
        """
        if not self.hung_after:
            return None
        try:
            seconds = float(self.hung_after)
        except ValueError:
            seconds = -1.0
        if not (seconds == 0.0 or LEAST_SECONDS <= seconds <= MOST_SECONDS):
            allowed = f"a number of seconds from {LEAST_SECONDS} to {MOST_SECONDS}, or 0"
            hint = "0 = never; unset it to go by the predicted speed"
            raise UsageError(f"EDGELLM_HUNG_AFTER={self.hung_after!r} is not {allowed}", hint=hint)
        return seconds

    @property
    def server_memory_bytes(self) -> int | None:
        """0 = no limit, None = by the machine's memory.

        Raises:
            UsageError: EDGELLM_SERVER_MEMORY is no size, or too little for a server.
        """
        if not self.server_memory:
            return None
        try:
            n_bytes = parse_bytes(self.server_memory)
        except UsageError as error:
            raise UsageError(f"EDGELLM_SERVER_MEMORY={error.message}", hint=f"{error.hint}, or unset it") from None
        if 0 < n_bytes < LEAST_SERVER_BYTES:
            few = f"EDGELLM_SERVER_MEMORY={self.server_memory!r} is less than {show_memory(LEAST_SERVER_BYTES)}"
            raise UsageError(few, hint="0 = no limit; unset it to go by the machine's memory")
        return n_bytes

    @property
    def download_rate(self) -> int | None:
        """Most bytes a second; None = no limit.

        Raises:
            UsageError: EDGELLM_MAX_RATE (or `--max-rate`) is no rate.
        """
        if not self.max_rate:
            return None
        try:
            return parse_rate(self.max_rate)
        except UsageError as error:
            raise UsageError(f"EDGELLM_MAX_RATE={error.message}", hint=f"{error.hint}, or unset it") from None

    @property
    def line_format(self) -> str:
        """Of log lines, one of LOG_FORMATS.

        Raises:
            UsageError: EDGELLM_LOG_FORMAT is none of them.
        """
        if self.log_format not in LOG_FORMATS:
            hint = f"one of {', '.join(LOG_FORMATS)}, or unset it"
            raise UsageError(f"EDGELLM_LOG_FORMAT={self.log_format!r} is not a log format", hint=hint)
        return self.log_format


def check(values: Mapping[str, str]) -> None:
    """
    Raises:
        UsageError: one of these variables has a value that means nothing, or names a folder that is of no use; the
            first is named.
    """
    environment = Environment.of(values)
    _ = environment.log_level, environment.line_format, environment.hung_after_s, environment.download_rate
    _ = environment.server_memory_bytes
    _ = environment.data_dir
    for name in ("EDGELLM_OFFLINE", "EDGELLM_ALLOW_HTTP"):
        if (value := values.get(name, "").lower()) not in (*_OFF, *_ON):
            raise UsageError(f"{name}={value!r} is neither on nor off", hint="write it as 1 or 0, or unset it")


def strangers(values: Mapping[str, str], backends: Iterable[str]) -> dict[str, str]:
    """The variables that look like ours and mean nothing, each with the name that may be meant ("" = none is near).

    Args:
        backends: names of backends; variables that begin with one are its own.
    """
    own = tuple(f"{PREFIX}{name.upper()}_" for name in backends)
    unknown = [name for name in values if name.startswith(PREFIX) and name not in NAMES and not name.startswith(own)]
    # Without what all have in common, which would make any two look alike.
    near = {name: difflib.get_close_matches(name[len(PREFIX) :], _NAMES, n=1, cutoff=0.5) for name in sorted(unknown)}
    return {name: PREFIX + names[0] if names else "" for name, names in near.items()}


def _is_on(value: str) -> bool:
    return value.lower() not in _OFF


def _can_be_entered(folder: Path) -> bool:
    """Where it does not exist: the nearest one above it, where it would be made."""
    return os.access(nearest_existing(folder), os.X_OK)


def _uid() -> str:
    return f" (uid {os.getuid()})" if hasattr(os, "getuid") else ""


_flags: dict[str, Any] = {}  # of the command that runs, by field


def current() -> Environment:
    """The environment as it is now, with the flags of the command that runs."""
    return replace(Environment.of(os.environ), **_flags)


def flag(field: str) -> Any:
    """What a flag of the command that runs says; None = nothing, whatever the environment says."""
    return _flags.get(field)


@contextlib.contextmanager
def override(**flags: Any) -> Iterator[None]:
    """These fields of `Environment` for every thread of this process, until the block ends."""
    before = dict(_flags)
    _flags.update(flags)
    try:
        yield
    finally:
        _flags.clear()
        _flags.update(before)


def variables() -> dict[str, str]:
    """Variables for a process that is to go by the same settings: without keys, tokens and passwords."""
    given = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    for field, value in _flags.items():
        if _SECRET.search(name := _variable(field)):
            continue
        if value is None:
            given.pop(name, None)
        else:
            given[name] = _spelled(value)
    return given


def _variable(field: str) -> str:
    """Which says the same as this field of `Environment`."""
    return PREFIX + {"devices": "DEVICE", "models_dirs": "MODELS_DIR"}.get(field, field.upper())


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):  # folders are separated as in PATH, names by commas
        return (os.pathsep if value and isinstance(value[0], Path) else ",").join(map(str, value))
    return ",".join(sorted(value)) if isinstance(value, frozenset) else str(value)
