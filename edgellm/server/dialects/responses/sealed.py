"""Texts that clients send back without reading them: thoughts (`encrypted_content`) and summaries.

They are not secret, as whoever asked may read what the model thought; they are base64, with a mark by which those of
other servers are told apart. Clients that keep no thoughts (Codex) so bring them back, and prompts stay the same.
"""

from __future__ import annotations

import base64
import binascii

_MARK = "edgellm-1."


def sealed(text: str) -> str:
    return _MARK + base64.b64encode(text.encode(errors="replace")).decode()


def opened(text: str) -> str | None:
    """The text that was sealed; None: it is another server's, or was changed."""
    if not text.startswith(_MARK):
        return None
    try:
        return base64.b64decode(text.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
