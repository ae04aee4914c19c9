"""What docs/plugins.md shows works as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from support import fake_plugins

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins.md"
OTHERS = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.estimate.quants import Quant
from edgellm.types.model import ModelCard, ModelFile, Shape

class Acme:
    name = "acme"
    formats = frozenset({"acme"})
    quants = None
    def check(self, machine): return []
    def supports(self, artifact): return []
    def footprint(self, artifact, settings): return None
    def open(self, plan): raise NotImplementedError
    def describe(self): return {}

@hookimpl
def register_backends(register):
    register(Acme())

@hookimpl
def register_models(register):
    shape = Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, True, kv_full_bytes=32768)
    file = ModelFile("file:/acme.bin", "Q2_ACME", "acme", tensor_bytes=400_000_000)
    register(ModelCard("acme-1b", "llama", "chat", "mit", 8192, 1_100_000_000, 1_100_000_000, shape, (file,)))
"""


def shown(hook: str) -> str:
    """The code below the heading of a hook."""
    below = PAGE.read_text("utf-8").split(f"\n### `{hook}(", 1)[1]
    example = re.search(r"```python\n(.*?)```", below, re.DOTALL)
    assert example is not None
    return example[1]


def test_a_model_in_a_quantization_of_a_plugins_own_is_chosen(tmp_path: Path) -> None:
    fake_plugins.install(tmp_path, "acme", OTHERS + shown("register_quants"))
    chosen = ("auto-select", "--profile", "raspberry-pi-5-8gb", "--json")
    done = fake_plugins.run_edgellm(tmp_path, "acme", ROOT, *chosen)

    assert json.loads(done.stdout)["choice"]["quant"] == "Q2_ACME"
    assert "keeps" in fake_plugins.run_edgellm(tmp_path, "acme", ROOT, "quants", "Q2_ACME").stdout
