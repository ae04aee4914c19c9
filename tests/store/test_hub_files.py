"""Which files of a repository a model is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgellm.store.sources.hub_files import firsts, onnx_files

TRANSFORMERS_JS = [
    "README.md", "config.json", "generation_config.json", "onnx/model.onnx", "onnx/model.onnx_data",
    "onnx/model.onnx_data_1", "onnx/model_q4.onnx", "onnx/model_q4f16.onnx", "onnx/model_q4f16.onnx_data",
    "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip
BESIDE = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("names", "model", "expected"),
    [
        (TRANSFORMERS_JS, "onnx/model.onnx",
         ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", *BESIDE]),
        (TRANSFORMERS_JS, "onnx/model_q4.onnx", ["onnx/model_q4.onnx", *BESIDE]),
        (TRANSFORMERS_JS, "onnx/model_q4f16.onnx", ["onnx/model_q4f16.onnx", "onnx/model_q4f16.onnx_data", *BESIDE]),
        (["m.onnx", "m.onnx.data", "m.onnx.database", "mXonnx.data"], "m.onnx", ["m.onnx", "m.onnx.data"]),
        (["cpu/a.onnx", "cpu/genai_config.json", "cpu/config.json", "config.json", "gpu/genai_config.json"],
         "cpu/a.onnx", ["cpu/a.onnx", "cpu/genai_config.json", "cpu/config.json"]),
        (["m.onnx", "1_Pooling/config.json", "modules.json"], "m.onnx",
         ["m.onnx", "modules.json", "1_Pooling/config.json"]),
        (["decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx",
          "decoder_with_past_model.onnx_data"], "decoder_model.onnx",
         ["decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_with_past_model.onnx_data"]),
        (["decoder_model_merged.onnx", "decoder_with_past_model.onnx"], "decoder_model_merged.onnx",
         ["decoder_model_merged.onnx"]),
    ],
    ids=["two data files", "none", "by its own name", "genai", "nearest folder", "pooling", "pair", "merged"],
)  # fmt: skip
def test_a_graph_its_data_and_what_lies_beside_it(names, model, expected):
    assert onnx_files(names, model) == expected


class _Walked(list[str]):
    """Counts how often all of it is gone through."""

    n_walks = 0

    def __iter__(self) -> Iterator[str]:
        self.n_walks += 1
        return super().__iter__()


def test_a_long_listing_is_gone_through_once():
    names = _Walked(f"m{number}-00001-of-00002.gguf" for number in range(100))

    assert firsts(names) == []
    assert names.n_walks == 1


def test_a_split_model_counts_where_all_its_parts_are_there():
    whole = [f"a/x-0000{no}-of-00003.gguf" for no in (3, 1, 2)]
    lacking = ["y-00001-of-00002.gguf", "z-00002-of-00002.gguf", "z-00002-of-00002.gguf"]

    assert firsts([*whole, *lacking, "b.gguf", "B.GGUF", "mmproj-b.gguf", "README.md", "w-00002-of-00001.gguf"]) == [
        "B.GGUF", "a/x-00001-of-00003.gguf", "b.gguf",
    ]  # fmt: skip
