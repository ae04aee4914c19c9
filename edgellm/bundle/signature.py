"""Signatures in minisign's format (ed25519 over BLAKE2b), so that `minisign -V` and other tools check them, too.

The library is in the extra `edgellm[bundle]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import UntrustedBundle, UsageError
from edgellm.files import read_regular, writing

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey

MAX_BYTES = 4096  # of a key or a signature, which have some hundred
COMMENT = "signature of an edgellm bundle"
_OTHER = "get the right public key from whoever made the bundle, or a bundle that this key signed"


def make_keys(secret: Path, public: Path, *, password: str = "") -> str:
    """Write a new pair of keys; returns the public one as text. The secret one can be read by its owner alone.

    Raises:
        UsageError: a file is there already, or cannot be written.
    """
    require_library("make-bundle")
    from minisign import KeyPair

    for path in (secret, public):  # both, before one of them is written
        if path.exists():
            raise UsageError(f"{path} exists", hint="name another file: a key is never replaced", param="file")

    pair = KeyPair.generate()
    if password:
        pair.secret_key.encrypt(password)
    _write_new(secret, bytes(pair.secret_key), 0o600)
    _write_new(public, bytes(pair.public_key), 0o644)
    return pair.public_key.to_base64().decode()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    def with_mode(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    with writing(path, param="file"), open(path, "xb", opener=with_mode) as file:
        file.write(content + b"\n")


def secret_key(path: Path, password: Callable[[], str]) -> SecretKey:
    """The key in a file; `password` is asked where it has one.

    Raises:
        UsageError: it is no secret key, or has another password.
    """
    require_library("make-bundle")
    from minisign import Error, SecretKey

    try:
        key = SecretKey.from_bytes(_read(path, "key"))
        if key.is_encrypted():
            key.decrypt(password())
    except Error as error:
        hint = (
            "name a secret key of minisign, as `edgellm bundle key` writes one, and type its password where it has one"
        )
        raise UsageError(f"{path} cannot be used as a secret key: {error}", hint=hint, param="key") from None
    return key


def public_key(text: str) -> PublicKey:
    """The key in a file, or as it is written in one line.

    Raises:
        UsageError: it is none.
    """
    require_library()
    from minisign import Error, PublicKey

    try:
        if os.path.exists(text):
            return PublicKey.from_bytes(_read(Path(text), "key"))
        return PublicKey.from_base64(text)
    except Error as error:
        hint = "name the file NAME.pub, or its second line"
        raise UsageError(f"{text[:100]!r} is no public key of minisign: {error}", hint=hint, param="key") from None


def sign(content: bytes, key: SecretKey, about: str) -> bytes:
    """The signature file of `content`. `about` is signed, too. Equal contents have equal signatures."""
    return bytes(key.sign(content, untrusted_comment=COMMENT, trusted_comment=about)) + b"\n"


def check(content: bytes, signature: bytes, key: PublicKey) -> None:
    """
    Raises:
        UntrustedBundle: it is not the signature of `content` by `key`, in the one form that `sign` writes.
    """
    from minisign import Error, Signature

    try:
        parsed = Signature.from_bytes(signature)
        key.verify(content, parsed)
    except Error as error:
        raise UntrustedBundle(f"the bundle's signature is not by the key given: {error}", hint=_OTHER) from None
    if bytes(parsed) + b"\n" != signature or parsed.untrusted_comment != COMMENT:
        raise UntrustedBundle("the bundle's signature has another form than EdgeLLM writes", hint=_OTHER)


def key_id(signature: bytes) -> str:
    """Which key a signature claims to be by, as minisign shows it; "" where it is none. Nothing is checked."""
    import base64
    import binascii

    try:
        return base64.b64decode(signature.splitlines()[1], validate=True)[2:10][::-1].hex().upper()
    except (binascii.Error, IndexError):
        return ""


def _read(path: Path, param: str) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise UsageError(message, hint="see --key", param=param) from None


def require_library(extra: str = "bundle") -> None:
    """`extra`: of edgellm, with all that the caller needs.

    Raises:
        UsageError: what checks signatures is not installed.
    """
    try:
        import minisign  # noqa: F401
    except ImportError:
        message = "signatures of bundles are made and checked by py-minisign, which is not installed"
        raise UsageError(message, hint=f'pip install "edgellm[{extra}]"', param="key") from None
