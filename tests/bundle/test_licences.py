"""An allow list of licences, against what wheels and models state."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.bundle import licences
from edgellm.errors import UsageError

ALLOWED = ("MIT", "Apache-2.0", "LGPL-2.1-only WITH x", "odd one (research)")


@pytest.mark.parametrize(
    "licence",
    [
        "MIT", "mit", "Apache-2.0 OR GPL-3.0-only", "MIT AND Apache-2.0", "(GPL-3.0-only OR MIT) AND Apache-2.0",
        "odd one (research)", "LGPL-2.1-only WITH x",
    ],
)  # fmt: skip
def test_allowed(licence):
    licences.require([("x", licence)], ALLOWED)


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-only", "", "unknown", "MIT AND GPL-3.0-only", "(MIT", "LGPL-2.1-only", "MIT AND", "MIT OR (",
        "(" * 5000,
        "GPL-3.0-only WITH x", "MIT; GPL",
    ],
)  # fmt: skip
def test_refused(licence):
    with refuses(UsageError, param="licences"):
        licences.require([("x", licence)], ALLOWED)


def test_all_are_named_at_once():
    with refuses(UsageError, param="licences"):
        licences.require([("a", "MIT"), ("b", "GPL-3.0-only"), ("c", "")], ALLOWED)
