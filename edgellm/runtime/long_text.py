"""Texts that are turned into tokens at once, and longer ones."""

LONG_TEXT = 8192  # characters: shorter ones take some 10 ms at most, a megabyte takes seconds
