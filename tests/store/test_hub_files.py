"""Which files of a repository an ONNX model is."""

from __future__ import annotations

import pytest

from edgellm.store.sources.hub_files import onnx_files

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
