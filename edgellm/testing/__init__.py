"""The conformance tests that a backend must pass, for plugin authors: subclass one in a test module and run pytest."""

import pytest

# A failure shows the values that were compared, as in a test module of one's own. Before they are imported.
pytest.register_assert_rewrite(
    *(
        f"edgellm.testing.{part}"
        for part in ("adapters", "answers", "backend", "embedder", "prefixes", "refusals", "rows", "tokens")
    )
)

from edgellm.testing.backend import BackendContract  # noqa: E402
from edgellm.testing.embedder import EmbedderContract  # noqa: E402
from edgellm.testing.tokens import encode, last_row  # noqa: E402

__all__ = ["BackendContract", "EmbedderContract", "encode", "last_row"]
