"""What drivers and firmware call things, made fit to be shown."""

from __future__ import annotations

import re


def clean(text: str) -> str:
    """One line of printable text, at most 120 characters: names come from firmware and are shown in terminals."""
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text)).strip()[:120]
