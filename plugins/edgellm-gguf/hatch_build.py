"""What a wheel of this plugin needs and an editable installation has of set-up: the binding, as `make wheels` packs it.

On the index the binding is source only, which pip would compile for minutes without being asked. The part behind "+" is
in no index, so only a folder with our wheels can satisfy it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BindingHook(BuildHookInterface[Any]):
    """Read by hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            pinned = Path(self.root) / "edgellm_gguf" / "llama_cpp_python.txt"
            build_data["dependencies"].append(pinned.read_text("utf-8").split()[0] + "+edgellm")
