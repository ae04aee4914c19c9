"""The app itself loads no llama.cpp, but looks which library its helpers would load; so the app has it, too."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs, copy_metadata

binaries = collect_dynamic_libs("llama_cpp", search_patterns=["*.so*", "*.dylib", "*.dll"])
datas = copy_metadata("llama-cpp-python")
