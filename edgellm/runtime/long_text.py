"""Texts that are turned into tokens at once, and longer ones."""

LONG_TEXT = 8192  # characters: shorter ones take some 10 ms at most, a megabyte takes seconds
VERY_LONG_TEXT = 128 * 1024  # characters: shorter ones take some tenths of a second
