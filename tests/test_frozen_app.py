"""What PyInstaller is told to collect. A build takes minutes, so a stand-in lists what the hook asks for."""

from __future__ import annotations

import importlib
import runpy
import sys
import tomllib
from collections.abc import Callable
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.refusals import refuses

import edgellm
from edgellm._pyinstaller import hook_dirs
from edgellm.catalog import lookup
from edgellm.contract.hookspecs import GROUP
from edgellm.contract.manager import BUILTIN
from edgellm.errors import UsageError
from edgellm.estimate import gpu_constants
from edgellm.hardware import gpu_table

PACKAGE = Path(edgellm.__file__).parent
ROOT = PACKAGE.parent


def _submodules(package: str, filter: Callable[[str], bool] = bool) -> list[str]:  # noqa: A002
    folder = Path(str(importlib.import_module(package).__file__)).parent
    parts = (path.relative_to(folder).with_suffix("").parts for path in folder.rglob("*.py"))
    names = (".".join((package, *(part for part in own if part != "__init__"))) for own in parts)
    return [name for name in names if filter(name)]


@pytest.fixture
def hook(monkeypatch) -> dict[str, Any]:
    hooks = ModuleType("PyInstaller.utils.hooks")
    vars(hooks).update(
        collect_data_files=lambda name: [("data of", name)],
        collect_dynamic_libs=lambda name: [("libraries of", name)],
        collect_submodules=_submodules,
        copy_metadata=lambda name: [("metadata of", name)],
    )
    for name, module in (
        ("PyInstaller", ModuleType("PyInstaller")), ("PyInstaller.utils", ModuleType("PyInstaller.utils")),
        ("PyInstaller.utils.hooks", hooks),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    (folder,) = hook_dirs()
    return runpy.run_path(str(Path(folder) / "hook-edgellm.py"))


@pytest.mark.parametrize("read", [lookup._shipped, gpu_table.table, gpu_constants.constants])
def test_data_files_that_were_left_out_are_told(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with refuses(UsageError):
        read.__wrapped__()


def test_files_and_metadata_of_this_package_are_collected(hook) -> None:
    assert {("data of", "edgellm"), ("metadata of", "edgellm")} <= set(hook["datas"])


def test_modules_that_are_loaded_by_name_are_named(hook) -> None:
    assert set(BUILTIN.values()) <= set(hook["hiddenimports"])
    assert not any(name.startswith("edgellm.testing") for name in hook["hiddenimports"])


def test_each_installed_plugin_is_collected_with_its_metadata(hook) -> None:
    """Without metadata a plugin counts as not installed."""
    entries = entry_points(group=GROUP)
    assert {entry.module for entry in entries} <= set(hook["hiddenimports"])
    for entry in entries:
        package = entry.module.partition(".")[0]
        wanted = {("data of", package), *([("metadata of", entry.dist.name)] if entry.dist else [])}
        assert wanted <= set(hook["datas"])
        assert ("libraries of", package) in hook["binaries"]


@pytest.mark.parametrize("folder", ["", "plugins/edgellm-gguf"])
def test_pyinstaller_is_told_where_the_hook_is(folder: str) -> None:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["entry-points"]["pyinstaller40"]["hook-dirs"].partition(":")
    package = ROOT / folder / module.replace(".", "/")
    assert f"def {function}(" in (package / "__init__.py").read_text("utf-8")
    assert (package / f"hook-{module.partition('.')[0]}.py").is_file()
