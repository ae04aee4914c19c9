import pytest


@pytest.mark.slow(8)
def test_there_are_71(llama_cpp):
    assert len(list((llama_cpp / "models/templates").glob("*.jinja"))) == 71
