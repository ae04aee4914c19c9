"""What was converted answers as its source does: bit for bit on our engine, and as llama.cpp reads the same file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bitnet import folders
from edgellm_bitnet import native

from edgellm.catalog.identify import identify
from edgellm.contract.converter import Conversion
from edgellm.contract.engine import SlotInput
from edgellm.contract.manager import Plugins
from edgellm.errors import BackendUnavailable
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

TOKENS = (1, 40, 77, 120, 5, 200, 33, 90, 150, 12)
SETTINGS = Settings(n_ctx=64, n_slots=1, n_batch=64)

pytestmark = pytest.mark.skipif(not native.path().exists(), reason="compiler: edgellm-bitnet's library is not built")


def opened(backend, path, settings=SETTINGS):
    artifact = Artifact("gguf" if path.is_file() else "safetensors", (str(path),), "made")
    try:
        return Plugins().backend(backend).open(LaunchPlan(backend, artifact, settings))
    except BackendUnavailable as error:
        pytest.skip(f"compiler: {error}")


def answers(backend, path, settings=SETTINGS):
    """(logits of every token, tokens of a text) of the model at `path`."""
    engine = opened(backend, path, settings)
    try:
        logits = engine.step([SlotInput(0, 0, TOKENS, len(TOKENS))])[0]
        text = engine.tokenizer.encode("don't the lazy dog\n\n 123 \u3053", add_special=True, parse_special=False)
        return np.array(logits), text
    finally:
        engine.close()


def convert(folder, to, out):
    artifact = identify(str(folder.path))
    Plugins().converters()["safetensors", to](Conversion(artifact, out, to), lambda done, total, what: None)
    return out


@pytest.mark.parametrize("to", ["i2_s", "tq2_0", "tq1_0", "q2_0"])
@pytest.mark.parametrize("family", ["bitnet", "llama", "qwen3"])
def test_our_engine_computes_the_same_from_folder_and_file(tmp_path, family, to):
    """Scales are exact in half precision here, so not a bit may differ."""
    folder = folders.make(tmp_path / "model", family, "bitlinear")
    before, text = answers("bitnet", folder.path)
    after, text_after = answers("bitnet", convert(folder, to, tmp_path / "m.gguf"))

    np.testing.assert_array_equal(before, after)
    assert text == text_after


@pytest.mark.parametrize("to", ["tq2_0", "tq1_0"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_llama_cpp_computes_the_same_from_the_file(tmp_path, family, to):
    """It quantizes activations by 256 columns, so its logits are near, not equal."""
    folder = folders.make(tmp_path / "model", family, "bitlinear")
    ours, text = answers("bitnet", folder.path)
    theirs, text_theirs = answers("gguf", convert(folder, to, tmp_path / "m.gguf"))

    cosine = (ours * theirs).sum() / np.sqrt(np.square(ours).sum() * np.square(theirs).sum())
    assert cosine > 0.9999
    assert text == text_theirs


def test_whoever_reads_answers_gets_the_folder_s_response_template(tmp_path):
    folder = folders.make(tmp_path / "model")
    config = json.loads((folder.path / "tokenizer_config.json").read_text()) | {"response_template": {"fields": {}}}
    (folder.path / "tokenizer_config.json").write_text(json.dumps(config))
    engine = opened("bitnet", folder.path)
    assert engine.info.response_template == '{"fields": {}}'
    engine.close()
