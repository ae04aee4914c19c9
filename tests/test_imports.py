"""What the parent process may not import. Whole processes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = ("llama_cpp", "onnxruntime", "torch", "ctranslate2", "tokenizers")
HEAVY = ("numpy", "starlette", "uvicorn", "rich", "jinja2", "huggingface_hub", "psutil", "httpx", "httpx2")


def modules_after(code: str, home: Path) -> set[str]:
    """Top-level modules, and folders of edgellm, that a fresh interpreter holds after `code`."""
    script = f"import json, sys\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    env = os.environ | {"EDGELLM_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = [name.split(".") for name in json.loads(done.stderr.splitlines()[-1])]
    return {".".join(name[:2] if name[0] == "edgellm" else name[:1]) for name in names}


@pytest.fixture(scope="module")
def measured_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that knows the bandwidth, which is measured once per machine, with numpy: the promise is later."""
    home = tmp_path_factory.mktemp("home")
    env = os.environ | {"EDGELLM_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "edgellm", "profile"], env=env, stdout=subprocess.DEVNULL, check=True)
    (stored,) = (home / "cache").glob("bandwidth-*.json")  # what a busy machine measured would be measured again
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"occasions": 1, "contended": False}))
    return home


def command(*arguments: str) -> str:
    return f"""
from edgellm.cli.main import main
try:
    main({list(arguments)!r})
except SystemExit as exit:
    assert exit.code == 0, exit.code
"""


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import edgellm; assert edgellm.__version__", (*NATIVE, *HEAVY, "click", "pluggy")),
        ("import edgellm; edgellm.EdgeLLM; edgellm.Sampling", NATIVE),
        (
            command("--help"),
            (*NATIVE, *HEAVY, "edgellm.selection", "edgellm.runtime", "edgellm.app"),
        ),
        (command("plugins", "--json"), (*NATIVE, *HEAVY)),
        (command("auto-select", "--json"), (*NATIVE, *HEAVY)),
        (command("doctor", "--json"), NATIVE),
        ("import edgellm.runtime.supervisor", (*NATIVE, "numpy")),
    ],
    ids=["import", "sdk", "help", "plugins", "auto-select", "doctor", "supervisor"],
)
def test_the_parent_stays_light(measured_home: Path, code: str, forbidden: tuple[str, ...]) -> None:
    loaded = modules_after(code, measured_home)
    assert sorted(loaded & set(forbidden)) == []
