"""The JSON-Schema-Test-Suite, as the source package of `jsonschema` carries it, read where it lies; nothing of it is
committed.
"""

from __future__ import annotations

import itertools
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgellm import settings
from edgellm.contract import pip

_VERSION = "4.26.0"


class Case(NamedTuple):
    """A schema with its instances: (what it shows, instance, whether it is valid)."""

    keyword: str  # the file that it stands in
    title: str
    schema: Any
    instances: list[tuple[str, Any, bool]]


def cases(folder: Path) -> Iterator[Case]:
    for file in sorted(folder.glob("*.json")):
        for group in json.loads(file.read_text()):
            instances = [(test["description"], test["data"], test["valid"]) for test in group["tests"]]
            yield Case(file.stem, group["description"], group["schema"], instances)


def spellings(value: Any) -> Iterator[str]:
    """Ways to write the same instance: each order of an object's properties, and 1 for 1.0."""
    if isinstance(value, dict):
        for order in itertools.permutations(value.items()):
            for values in itertools.product(*(list(spellings(item)) for _, item in order)):
                keys = (json.dumps(key, ensure_ascii=False) for key, _ in order)
                yield "{" + ",".join(map("{}:{}".format, keys, values)) + "}"
    elif isinstance(value, list):
        for values in itertools.product(*(list(spellings(item)) for item in value)):
            yield "[" + ",".join(values) + "]"
    else:
        whole = isinstance(value, float) and value.is_integer()
        yield json.dumps(int(value) if whole else value, ensure_ascii=False)


@pytest.fixture(scope="session")
def json_schema_suite() -> Path:
    """The folder of draft 2020-12. Skips, as group "corpus", where pip cannot fetch it."""
    parent = settings.current().cache_dir / "sources"
    folder = parent / f"jsonschema-{_VERSION}"
    if not folder.exists():
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as scratch:
            with tarfile.open(_download(Path(scratch))) as members:
                members.extractall(scratch, filter="data")
            (Path(scratch) / folder.name).rename(folder)
    return folder / "json" / "tests" / "draft2020-12"


def _download(folder: Path) -> Path:
    command = ["download", "--no-deps", "--no-binary", "jsonschema", f"jsonschema=={_VERSION}", "-d", str(folder)]
    done = pip.run(pip.command(command), pip.environment(folder))
    if done.returncode:
        pytest.skip(f"corpus: the source of jsonschema cannot be fetched: {done.stderr[-300:].strip()}")
    return next(folder.glob("*.tar.gz"))
