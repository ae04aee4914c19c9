"""How many tokens an encoder reads: the least that a file beside it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.formats.encoder_length import encoder_length

BERT = {"model_type": "bert", "max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("config", "files", "length", "where"),
    [
        (BERT, {}, 512, "config.json"),
        (BERT, {"sentence_bert_config.json": {"max_seq_length": 256}}, 256, "sentence_bert_config.json"),
        (BERT, {"tokenizer_config.json": {"model_max_length": 10**30}}, 512, "config.json"),
        (BERT, {"tokenizer_config.json": {"model_max_length": True}}, 512, "config.json"),
        (BERT | {"model_type": "roberta", "max_position_embeddings": 514}, {}, 512, "config.json"),
        ({}, {}, 0, ""),
    ],
)
def test_the_least_that_is_named_counts(
    tmp_path: Path, config: dict[str, Any], files: dict[str, Any], length: int, where: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert encoder_length(tmp_path, config) == (length, where)
