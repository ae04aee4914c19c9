"""Keys and signatures are minisign's."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys

import pytest
from minisign import KeyPair
from support import bundles
from support.refusals import refuses

from edgellm.bundle import signature
from edgellm.errors import UntrustedBundle, UsageError

# From the page of minisign: a key, the signature of "test", and its comments.
KEY = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
SIGNATURE = b"""untrusted comment: signature from minisign secret key
RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=
trusted comment: timestamp:1555779966\tfile:test
QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==
"""


def no_password() -> str:
    raise AssertionError("nothing asks for it")


def test_keys_that_were_made_sign_and_check(tmp_path):
    secret, public = tmp_path / "box.key", tmp_path / "box.key.pub"
    text = signature.make_keys(secret, public)

    signed = signature.sign(b"content", signature.secret_key(secret, no_password), "about")
    for key in (text, str(public)):
        signature.check(b"content", signed, signature.public_key(key))
    assert signed == signature.sign(b"content", signature.secret_key(secret, no_password), "about")
    if sys.platform != "win32":
        assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600


def test_a_key_with_a_password_needs_it(tmp_path):
    secret = tmp_path / "box.key"
    signature.make_keys(secret, tmp_path / "box.key.pub", password="right")

    assert not signature.secret_key(secret, lambda: "right").is_encrypted()
    with refuses(UsageError, param="key"):
        signature.secret_key(secret, lambda: "wrong")


def test_keys_replace_none(tmp_path):
    (tmp_path / "box.key").write_bytes(b"dear")

    with refuses(UsageError, param="file"):
        signature.make_keys(tmp_path / "box.key", tmp_path / "box.key.pub")
    assert (tmp_path / "box.key").read_bytes() == b"dear"


def test_where_only_the_public_key_would_be_replaced_no_secret_one_is_left(tmp_path):
    (tmp_path / "box.key.pub").touch()

    with refuses(UsageError, param="file"):
        signature.make_keys(tmp_path / "box.key", tmp_path / "box.key.pub")
    assert not (tmp_path / "box.key").exists()


@pytest.mark.parametrize("change", ["content", "other key", "signature", "comment"])
def test_another_signature_is_refused(change):
    signed = signature.sign(b"content", bundles.KEY, "about")
    content, key = b"content", bundles.PUBLIC
    if change == "content":
        content = b"contents"
    elif change == "other key":
        key = KeyPair.generate().public_key
    elif change == "signature":
        signed = b"\n".join([*signed.split(b"\n")[:1], b"A" * 100, *signed.split(b"\n")[2:]])
    else:
        signed = signed.replace(b"about", b"abort")

    with refuses(UntrustedBundle):
        signature.check(content, signed, key)


def test_another_form_of_a_right_signature_is_refused():
    """So that no byte of a bundle can change unseen."""
    with refuses(UntrustedBundle):
        signature.check(b"test", SIGNATURE, signature.public_key(KEY))


@pytest.mark.parametrize("text", ["", "x", KEY[:-1], "box.key.pub"])
def test_what_is_no_public_key_is_refused(text):
    with refuses(UsageError, param="key"):
        signature.public_key(text)


def test_the_id_of_a_key_is_shown_as_minisign_shows_it():
    assert signature.key_id(SIGNATURE) == "E7620F1842B4E81F"
    assert signature.key_id(b"") == ""


def test_the_hint_names_the_extra_that_has_all_that_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minisign", None)

    for make in (
        lambda: signature.make_keys(tmp_path / "a", tmp_path / "b"),
        lambda: signature.secret_key(tmp_path / "a", str),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert "edgellm[make-bundle]" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        signature.public_key("RWQ")
    assert "edgellm[bundle]" in caught.value.hint


@pytest.mark.skipif(shutil.which("minisign") is None, reason="needs minisign")
def test_minisign_checks_it(tmp_path):
    (tmp_path / "key.pub").write_bytes(bytes(bundles.PUBLIC) + b"\n")
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "x.minisig").write_bytes(signature.sign(b"content", bundles.KEY, "about"))

    subprocess.run(["minisign", "-Vm", tmp_path / "x", "-p", tmp_path / "key.pub"], check=True, capture_output=True)
