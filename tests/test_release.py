"""What a release is made of, before anything is built."""

from __future__ import annotations

from types import ModuleType

import pytest
from support.made_wheels import script

CHANGELOG = """\
# Changelog

## [Unreleased]

- later

## [0.2.0] - 2026-12-01

### Added

- one

## [0.1.0] - 2026-11-01

- zero
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return script("release")


def test_notes_are_the_part_of_the_changelog(release: ModuleType) -> None:
    assert release.notes(CHANGELOG, "0.2.0") == "### Added\n\n- one\n"
    assert release.notes(CHANGELOG, "0.1.0") == "- zero\n"


@pytest.mark.parametrize("changelog", [CHANGELOG, "## [0.3.0] - 2027-01-01\n\n## [0.2.0] - 2026-12-01\n\n- one\n"])
def test_a_version_without_notes_is_refused(release: ModuleType, changelog: str) -> None:
    with pytest.raises(release.Refused):
        release.notes(changelog, "0.3.0")


def test_core_and_plugins_have_one_version(release: ModuleType) -> None:
    assert release.version()
