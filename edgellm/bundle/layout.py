"""How the bytes of a bundle lie: a tar file (POSIX ustar) of one form only, which follows from its manifest.

    header of 512 bytes, the file, zeros up to a multiple of 512; at the end 1,024 zeros

Each file begins at a multiple of 4,096 bytes, as a file system may share whole blocks only. Where the next header would
not leave it there, a pax header with a comment of blanks stands before it, which every tar passes over. Owners, modes
and times are fixed. A reader compares headers with those that the manifest leads to, and parses none.
"""

from __future__ import annotations

BLOCK = 512
ALIGNED = 4096
END = bytes(2 * BLOCK)
MTIME = 315_532_800  # 1980-01-01, the oldest that a wheel's files can have; tar warns of 0
_OCTAL_LIMIT = 8**11  # sizes from here on are written in binary, as GNU tar does
_SIZE = slice(124, 136)


def opening(offset: int, path: str, n_bytes: int, *, executable: bool = False) -> bytes:
    """What stands before a file whose header could be at `offset`, a multiple of 512.

    Raises:
        ValueError: the path is too long for a header.
    """
    return _filler(offset) + _header(path, n_bytes, 0o755 if executable else 0o644)


def closing(n_bytes: int) -> bytes:
    """The zeros behind a file."""
    return bytes(-n_bytes % BLOCK)


def unpacked_at(sha256: str) -> int:
    """The time, in seconds, that a file with this hash gets where it is unpacked. Caches know a file by path, size and
    time; the same path in a slot has another content after an update, often of the same size."""
    return MTIME + 2 * int(sha256[:7], 16)  # FAT has even seconds


def size_in(header: bytes) -> int:
    """The size that a header claims; what is no number is 0."""
    try:
        return int(header[_SIZE].rstrip(b"\0") or b"0", 8)
    except ValueError:
        return 0


def _filler(offset: int) -> bytes:
    """A pax header that brings the next file to a multiple of 4,096; nothing where it is there already."""
    if (offset + BLOCK) % ALIGNED == 0:
        return b""
    n_bytes = -(offset + 2 * BLOCK) % ALIGNED or ALIGNED
    comment = f"{n_bytes} comment=".ljust(n_bytes - 1) + "\n"
    return _header("fill", n_bytes, 0o644, kind=b"x") + comment.encode()


def _header(path: str, n_bytes: int, mode: int, *, kind: bytes = b"0") -> bytes:
    prefix, name = _split(path.encode("ascii"))
    size = b"%011o\0" % n_bytes if n_bytes < _OCTAL_LIMIT else b"\x80" + n_bytes.to_bytes(11, "big")
    fields = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, size, b"%011o\0" % MTIME,
        b" " * 8, kind, bytes(100), b"ustar\x0000", bytes(32), bytes(32), b"%07o\0" % 0, b"%07o\0" % 0,
        prefix.ljust(155, b"\0"), bytes(12),
    )  # fmt: skip
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Prefix and name; the name as long as it can be."""
    if len(path) <= 100:
        return b"", path
    at = path.find(b"/", len(path) - 101)
    if not 0 < at <= 155:
        raise ValueError(f"{path.decode()!r} is too long for a header of tar")
    return path[:at], path[at + 1 :]
