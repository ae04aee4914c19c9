"""What PyInstaller does not see of EdgeLLM: files beside the code, modules that are loaded by name, and plugins.

PyInstaller runs this file for each app that imports edgellm, in the environment that it freezes.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules, copy_metadata

GROUP = "edgellm.v1"  # of plugins, as in edgellm.contract.hookspecs

datas = [*collect_data_files("edgellm"), *copy_metadata("edgellm")]
binaries: list[tuple[str, str]] = []
# Without the kit for tests of plugins, which wants pytest.
hiddenimports = collect_submodules("edgellm", filter=lambda name: not name.startswith("edgellm.testing"))
for entry in entry_points(group=GROUP):
    package = entry.module.partition(".")[0]
    hiddenimports += [entry.module, *collect_submodules(package)]
    datas += collect_data_files(package)
    binaries += collect_dynamic_libs(package)
    if entry.dist is not None:
        datas += copy_metadata(entry.dist.name)
