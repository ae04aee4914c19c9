"""The kind of a file by its first bytes, for error messages that say what was found instead. Opens no file."""

from __future__ import annotations

_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "gguf", "a GGUF file"),
    (b"version https://git-lfs", "lfs", "a git-lfs pointer, not the file it stands for; run `git lfs pull`"),
    (b"PK\x03\x04", "zip", "a zip archive (a wheel, or a PyTorch checkpoint)"),
    (b"\x1f\x8b", "gzip", "gzip-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd-compressed; unpack it first"),
    (b"lmgg", "ggml", "a GGML file of 2023, older than GGUF; fetch the model again as GGUF"),
    (b"fmgg", "ggml", "a GGML file of 2023, older than GGUF; fetch the model again as GGUF"),
    (b"tjgg", "ggml", "a GGML file of 2023, older than GGUF; fetch the model again as GGUF"),
    (b"<?xml", "html", "an XML page (an error page of a storage service?); fetch the model again"),
)


def sniff(start: bytes) -> tuple[str, str]:
    """(kind, words for people) of a file that begins with `start` (64 bytes are enough).

    Kinds: gguf lfs zip gzip zstd ggml html safetensors json text empty unknown.
    """
    head = start.lstrip().lower()
    prefixed = next(((kind, words) for prefix, kind, words in _STARTS if start.startswith(prefix)), None)
    if not start:
        answer = "empty", "empty"
    elif prefixed is not None:
        answer = prefixed
    elif head.startswith((b"<!doctype", b"<html")):
        answer = "html", "an HTML page (an error or login page was saved instead of the model); fetch the model again"
    elif start[8:9] == b"{":
        answer = "safetensors", "a safetensors file"
    elif head[:1] in (b"{", b"["):
        answer = "json", "JSON text"
    elif not start.strip(b"\0"):
        answer = "unknown", "all zero bytes at its start (a download that was never finished?)"
    elif all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        answer = "text", "plain text"
    else:
        answer = "unknown", "of no kind known here"
    return answer
