"""An update module for Mender's client (protocol 3): a script that calls `edgellm bundle`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from edgellm.files import package_data


def update_module(root: Path, key: str, *, restart: str = "", url: str = "", edgellm: str = "") -> str:
    """The script for the slots below `root`.

    Args:
        key: public key in one line, by which bundles must be signed.
        restart: starts the service anew; "" = nobody does.
        edgellm: path of the program; "" = that of the slot that is served, or the one in PATH.
    """
    text = package_data("edgellm.bundle", "mender.sh").decode()
    values = {"ROOT": str(root), "KEY": key, "RESTART": restart, "URL": url, "EDGELLM": edgellm}
    # In one go: a value may look like a place of another.
    return re.sub("@([A-Z]+)@", lambda place: shlex.quote(values[place[1]]), text)
