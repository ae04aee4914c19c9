"""What is in the wheel, and what `edgellm` exports."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from support.refusals import refuses

import edgellm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as it would be published, built without a build environment, so without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_data_files_travel_with_the_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    profiles = {f"edgellm/hardware/data/{path.name}" for path in (ROOT / "hardware_profiles").glob("*.toml")}
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgellm").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }

    assert profiles
    assert profiles <= names
    assert data <= names
    assert "edgellm/py.typed" in names
    assert any(name.startswith("edgellm/catalog/models.") for name in names)
    assert any(name.startswith("edgellm/server/web/") and name.endswith(".html") for name in names)


def test_nothing_else_travels(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"edgellm", f"edgellm-{edgellm.__version__}.dist-info"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name or "test_" in name]


def test_metadata(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(wheel.read(f"edgellm-{edgellm.__version__}.dist-info/METADATA").decode())

    assert metadata["Version"] == edgellm.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert "pip install" in str(metadata.get_payload())


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names)


def normal(name: str) -> str:
    """A distribution's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_third_party_import_of_the_core_is_declared() -> None:
    """`pip install edgellm` brings what the core imports; tests and plugins bring their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {normal(re.split(r"[<>=\[ ]", requirement)[0]) for requirement in project["dependencies"]}
    declared |= {"edgellm", "tqdm"}  # huggingface_hub takes tqdm in its own interface
    # Read in a worker only, for plugins, which bring it; without it the reader says so.
    declared |= {"tokenizers"}
    # Only for an app that passes a class of it.
    declared |= {"pydantic"}
    # Without these the refusal says what to install.
    extras = project["optional-dependencies"]
    beside = (*extras["grammar"], *extras["parquet"], *extras["make-bundle"])
    declared |= {normal(re.split(r"[<>=]", wheel)[0]) for wheel in beside} | {
        "packageurl-python"
    }  # which cyclonedx brings
    homes = importlib.metadata.packages_distributions()
    for path in (ROOT / "edgellm").rglob("*.py"):
        # Plugin authors, who subclass these, have pytest; and hooks are run by PyInstaller.
        extra = {"testing": {"pytest"}, "_pyinstaller": {"PyInstaller"}}.get(path.parent.name, set())
        for module in imported(path) - extra:
            assert set(map(normal, homes.get(module, [module]))) & declared, f"{path}: {module}"


def test_exports_are_sorted_and_exist() -> None:
    assert edgellm.__all__ == sorted(edgellm.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in edgellm.__all__:
        assert getattr(edgellm, name) is not None
    with refuses(AttributeError):
        _ = edgellm.nothing


@pytest.mark.parametrize("plugin", sorted((ROOT / "plugins").glob("*/pyproject.toml")), ids=lambda p: p.parent.name)
def test_plugins_are_distributions_of_their_own(plugin: Path) -> None:
    project = tomllib.loads(plugin.read_text("utf-8"))["project"]

    assert project["name"] == plugin.parent.name
    assert "edgellm" in project["dependencies"]
    for module in project["entry-points"]["edgellm.v1"].values():
        assert (plugin.parent / f"{module.replace('.', '/')}.py").exists()


def test_a_wheel_asks_for_the_binding_as_our_wheels_have_it_and_never_for_its_sources(tmp_path: Path) -> None:
    """pip would compile them for minutes. An installation by set-up asks for neither: it has the binding already."""
    folder = ROOT / "plugins" / "edgellm-gguf"
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        name = next(name for name in archive.namelist() if name.endswith("METADATA"))
        asked = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    pinned = (folder / "edgellm_gguf" / "llama_cpp_python.txt").read_text("utf-8").split()[0]

    assert [line for line in asked if line.startswith("llama")] == [f"{pinned}+edgellm"]
    if "editable" in (importlib.metadata.distribution("edgellm-gguf").read_text("direct_url.json") or ""):
        assert not [line for line in importlib.metadata.requires("edgellm-gguf") or [] if line.startswith("llama")]
