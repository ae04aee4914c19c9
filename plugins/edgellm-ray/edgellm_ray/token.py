"""The token by which the machines of a cluster know each other. Whoever has it can run programs on all of them."""

from __future__ import annotations

import functools
import os
import secrets
from pathlib import Path

from edgellm import settings
from edgellm.errors import UsageError

_N_BYTES = 32


def token_file() -> Path:
    """Where it lies on this machine, which need not have one."""
    return settings.current().data_dir / "cluster" / "token"


def token() -> str:
    """That of the cluster which this process is in; "" where this machine has none."""
    return _read(Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file()))


@functools.cache
def _read(path: Path) -> str:
    return path.read_text("ascii").strip() if path.exists() else ""


def make_token() -> Path:
    """The file with the token, made where there is none, for this user alone."""
    path = token_file()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_N_BYTES))
    return path


def take_token(source: Path) -> None:
    """Keep a copy of the head's.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        token = source.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = f"the token file {source} cannot be read: {error}"
        raise UsageError(why, hint=f"copy {token_file()} of the head here", param="token_file") from None
    if len(token) != 2 * _N_BYTES or set(token) - set("0123456789abcdef"):
        hint = f"copy {token_file()} of the head here"
        raise UsageError(f"{source} holds no token of a cluster", hint=hint, param="token_file")
    path = token_file()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(token)


def token_environment() -> dict[str, str]:
    """Variables by which Ray finds the token; none where there is no token."""
    path = token_file()
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)} if path.exists() else {}
