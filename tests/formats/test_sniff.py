"""Wrong files are called by their name."""

import pytest

from edgellm.formats.sniff import sniff


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GGUF\x03\0\0\0", "gguf"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "lfs"),
        (b"\n  <!DOCTYPE html>", "html"),
        (b"<HTML><head>", "html"),
        (b"<?xml version='1.0'?><Error>", "html"),
        (b"PK\x03\x04", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"tjgg\x03\0\0\0", "ggml"),
        (b'\x40\0\0\0\0\0\0\0{"a":', "safetensors"),
        (b'{"error": "not found"}', "json"),
        (b"Not Found", "text"),
        (b"\0" * 64, "unknown"),
        (b"\x80\x81\x82", "unknown"),
    ],
)
def test_kind(start, kind):
    assert sniff(start)[0] == kind
    assert sniff(start)[1]
