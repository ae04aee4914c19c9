"""What the pages print, to run it."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, marker: str) -> str:
    """The Python on a page that holds `marker`."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = [code for code in blocks if marker in code]
    return str(code)
