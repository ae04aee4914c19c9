"""Four moments of `make soak-downloads`."""

import pytest
from store.killed_downloads import model_bytes, one_moment


@pytest.mark.parametrize(
    ("scheme", "after_s"),
    [
        ("hf", 0.2),
        ("https", 0.3),
        *(pytest.param("ollama", s, marks=pytest.mark.slow(1)) for s in (0.05, 0.45)),
    ],
)
def test_a_killed_download_leaves_nothing_wrong_and_loses_no_more_than_a_chunk(scheme, after_s, tmp_path):
    outcome = one_moment(scheme, after_s, model_bytes(), tmp_path)

    assert outcome.problems() == []
    assert outcome.was_whole or outcome.had > 0
