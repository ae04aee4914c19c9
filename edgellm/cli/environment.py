"""What the environment must say before a command begins."""

from __future__ import annotations

import os

from edgellm import settings


def check_environment() -> None:
    """
    Raises:
        UsageError: a variable has a value that means nothing, or names a folder or a plugin that is of no use.
    """
    from edgellm.contract.manager import plugins

    settings.check(os.environ)
    plugins().check_names()
