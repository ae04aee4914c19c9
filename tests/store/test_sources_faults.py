"""Every source against every fault of its server: a file that is whole and right, or none, and an error with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.refusals import refuses
from support.store_server import card_of, names_below, sha256

from edgellm.errors import IntegrityError, SourceError, SourceUnreachable, UnknownModel
from edgellm.store import http
from edgellm.store.library import Library
from edgellm.types.model import ModelFile


def file_of(uri, data, **changed):
    return ModelFile(**{"source": uri, "quant": "Q8_0", "bytes": len(data), "sha256": sha256(data), **changed})


def left_over(own_home):
    """Files under a final name: in the store, and blobs and links of the hub's cache."""
    return [name for name in names_below(own_home) if not name.startswith("cache/") and ".incomplete" not in name]


def test_a_file_comes_whole(source, models, model_bytes, own_home):
    file = file_of(source, model_bytes)

    artifact = Library().fetch(card_of(file), file)

    assert Path(artifact.path).read_bytes() == model_bytes
    assert artifact.sha256 == sha256(model_bytes)
    assert not [name for name in names_below(own_home) if "incomplete" in name]
    n_requests = len(models.seen)
    assert Library().fetch(card_of(file), file) == artifact
    assert len(models.seen) == n_requests


@pytest.mark.parametrize("mode", ["no-range", "cut", "cut-once", "429*2", "500*1", "503*2"])
def test_what_passes_is_overcome(source, models, model_bytes, own_home, mode):
    models.mode = mode
    file = file_of(source, model_bytes)

    artifact = Library().fetch(card_of(file), file)

    assert Path(artifact.path).read_bytes() == model_bytes


SLOW = ("hang", "hang-midway", "drip-headers")
FAULTS = [
    ("longer", IntegrityError),
    ("shorter", IntegrityError),
    ("more", IntegrityError),
    ("wrong-byte", IntegrityError),
    ("html", IntegrityError),
    ("gzip", SourceError),
    ("401", SourceError),
    ("403", SourceError),
    ("404", UnknownModel),
    ("429", SourceUnreachable),
    ("500", SourceUnreachable),
    ("hang", SourceUnreachable),
    ("hang-midway", SourceUnreachable),
    ("drip-headers", SourceUnreachable),
]


@pytest.mark.parametrize(("mode", "kind"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_leaves_nothing_under_a_final_name(source, models, model_bytes, own_home, monkeypatch, mode, kind):
    models.mode = mode
    file = file_of(source, model_bytes)
    monkeypatch.setattr(http, "TIMEOUT_S", 0.1 if mode in SLOW else 5.0)

    with refuses(kind) as caught:
        Library().fetch(card_of(file), file)

    assert caught.value.hint
    assert [name for name in left_over(own_home) if name.endswith(("stored.json", ".gguf"))] == []
    assert [p for p in own_home.rglob("blobs/*") if "incomplete" not in p.name] == []

    models.mode = "well"
    monkeypatch.setattr(http, "TIMEOUT_S", 5.0)
    assert Path(Library().fetch(card_of(file), file).path).read_bytes() == model_bytes
