"""Addresses of files: which may be asked, and how one may be shown."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from edgellm import settings
from edgellm.errors import SourceError


def check_address(url: str) -> None:
    """
    Raises:
        SourceError: another scheme than https (http to this machine, or where EDGELLM_ALLOW_HTTP is set), no host, or
            a password in the address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise SourceError(f"{redacted(url)!r} is not an address: {error}", hint="write https://HOST/PATH") from None
    if parts.scheme not in ("https", "http") or not host or not url.isprintable() or " " in url:
        raise SourceError(f"{redacted(url)!r} is not an address of a file", hint="write https://HOST/PATH")
    check_userinfo(url)
    if parts.scheme == "http" and not is_loopback(host) and not settings.current().allow_http:
        raise SourceError(
            f"{redacted(url)} is not encrypted: anyone on the way could read and change it",
            hint="use https://, or set EDGELLM_ALLOW_HTTP=1 where the network is your own",
        )


def check_userinfo(url: str) -> None:
    """
    Raises:
        SourceError: there is a user name or a password in the address, which is not shown.
    """
    try:
        has_user = "@" in urlsplit(url).netloc
    except ValueError:
        return
    if has_user:
        raise SourceError(
            f"{redacted(url)} came with a user name or password in it",
            hint="what is logged or stored must hold no secret",
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def redacted(url: str) -> str:
    """The address as it may be shown and stored: no user, no query."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2][:200]
    return f"{parts.scheme}:{'//' if host or parts.scheme in ('http', 'https') else ''}{host}{parts.path}"[:500]
