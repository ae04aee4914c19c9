"""Every file of a bundle belongs to a component with a licence and a hash, and the SBOM is one by its schema."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.bundles import wheel
from support.refusals import refuses

from edgellm.bundle import papers, wheels
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.wheels import Platform
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError

PI = Platform("aarch64", "3.13", "2.28")


def only(folder, name="core"):
    return wheels.needed([name], [folder], PI)[0]


def parts():
    one, two = Content.of("models/a/x.gguf", b"1"), Content.of("models/a/stored.json", b"2")
    return [
        PackedPart("model", "a", "Q4_1", "gemma", (one, two)),
        PackedPart("library", "core", "1.0", "MIT OR Apache-2.0", (Content.of("wheels/core.whl", b"3"),)),
        PackedPart("file", "plans/box.json", "", "Apache-2.0", (Content.of("plans/box.json", b"4"),)),
    ]


def test_it_validates():
    content = papers.sbom("box", 3, parts())

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.data.decode()) is None


def test_it_says_the_same_each_time():
    assert papers.sbom("box", 3, parts()) == papers.sbom("box", 3, list(reversed(parts())))


def test_every_file_has_a_licence_and_its_hash():
    document = json.loads(papers.sbom("box", 3, parts()).data)
    rows = [row for component in document["components"] for row in (component.get("components") or [component])]
    hashes = {row["properties"][0]["value"]: row["hashes"][0]["content"] for row in rows}

    assert hashes == {content.path: content.sha256 for part in parts() for content in part.files}
    assert all(row["licenses"] for row in rows)


@pytest.mark.parametrize(
    ("says", "licence"),
    [
        ("License-Expression: Apache-2.0 OR BSD-2-Clause\n", "Apache-2.0 OR BSD-2-Clause"),
        ("License: BSD\n", "BSD"),
        ("Classifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("License: Copyright (c) somebody\n        Redistribution and use\n", "Copyright (c) somebody"),
    ],
)
def test_a_licence_is_what_the_wheel_says(says, licence, tmp_path):
    wheel(tmp_path, "core-1.0", more=says)

    assert papers.licence_of(only(tmp_path)) == licence


def test_a_wheel_without_a_licence_is_in_no_bundle(tmp_path):
    wheel(tmp_path, "core-1.0", more="")

    with refuses(UsageError, param="wheels"):
        papers.licence_of(only(tmp_path))


def test_texts_of_licences_come_along(tmp_path):
    wheel(tmp_path, "core-1.0")

    ((_, text),) = papers.texts_of([only(tmp_path)])
    assert (text.path, text.data) == ("licences/core-1.0/LICENSE", b"of core")


def test_texts_of_a_wheel_are_bounded_together(tmp_path, monkeypatch):
    more = {f"core-1.0.dist-info/licenses/{no}": bytes(100) for no in range(5)}
    wheel(tmp_path, "core-1.0", files=more)
    found = only(tmp_path)
    monkeypatch.setattr(papers, "MAX_TEXTS_BYTES", 500)

    with refuses(UsageError, param="wheels"):
        papers.texts_of([found])
