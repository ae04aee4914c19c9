"""The conformance tests that a backend must pass, for plugin authors: subclass one in a test module and run pytest."""

from edgellm.testing.backend import BackendContract, encode, last_row
from edgellm.testing.embedder import EmbedderContract

__all__ = ["BackendContract", "EmbedderContract", "encode", "last_row"]
