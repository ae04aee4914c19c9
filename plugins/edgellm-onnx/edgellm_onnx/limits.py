"""Sizes that the engine allocates and the footprint counts."""

from __future__ import annotations

SPARE_ROWS = 31  # rows of logits beyond one per slot, to verify drafts
ROOM_BYTES = 256 << 20  # of rows that nobody asked for: a graph that gives all of them gets prompts in pieces
