"""Small bundles, sound ones and others."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path
from typing import Any

from minisign import KeyPair

from edgellm.bundle import writer
from edgellm.bundle.manifest import Manifest, Target, TargetModel
from edgellm.bundle.writer import Content
from edgellm.store.library import silent

KEYS = KeyPair.generate()
KEY, PUBLIC = KEYS.secret_key, KEYS.public_key
FOLDER = "models/toy/F32-0123456789abcdef"


def target(**changes: Any) -> Target:
    usual: dict[str, Any] = {
        "name": "box", "profile": "profiles/box.toml", "plan": "plans/box.json", "arch": "x86_64", "os": "linux",
        "needed_bytes": 1, "model": TargetModel(id="toy", quant="F32", folder=FOLDER),
        "serve": ("toy:F32", "--offline"),
    }  # fmt: skip
    return Target(**usual | changes)


def about(**changes: Any) -> Manifest:
    usual: dict[str, Any] = {"name": "box", "release": 1, "edgellm": "0", "targets": (target(),), "files": ()}
    return Manifest(**usual | changes)


def contents(model_bytes: int = 300_000) -> list[Content]:
    """What every target needs, and a model of random bytes."""
    data = random.Random(7).randbytes(model_bytes)
    return [
        Content.of("profiles/box.toml", b"id = 'box'\n"),
        Content.of("plans/box.json", b"{}\n"),
        Content.of(f"{FOLDER}/toy.gguf", data),
        Content.of("empty", b""),
        Content.of("run", b"#!/bin/sh\n", executable=True),
    ]


def make(path: Path, files: list[Content] | None = None, *, signed: bool = True, **changes: Any) -> Manifest:
    """Write a bundle to `path`."""
    with open(path, "wb") as file:
        key = KEY if signed else None
        return writer.write(file, about(**changes), contents() if files is None else files, key, silent)


def wheel(
    folder: Path,
    name: str,
    *,
    tag: str = "py3-none-any",
    more: str = "License-Expression: MIT\n",
    files: dict[str, bytes] | None = None,
) -> Path:
    """A wheel that says what `more` says, with these files, deflated where they are large; `name` as "numpy-2.1"."""
    stem, _, version = name.rpartition("-")
    folder.mkdir(exist_ok=True)
    path = folder / f"{stem.replace('-', '_')}-{version}-{tag}.whl"
    info = f"{stem.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.4\nName: {stem}\nVersion: {version}\n{more}\n")
        archive.writestr(f"{info}/licenses/LICENSE", f"of {stem}")
        for member, data in (files or {}).items():
            archive.writestr(member, data, zipfile.ZIP_DEFLATED if len(data) > 1000 else None)
    return path
