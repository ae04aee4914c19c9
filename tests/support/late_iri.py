"""jsonschema checks IRIs with a package that builds forty parsers when it is imported, which takes a second: in each
process that collects tests, as nine files import jsonschema. Here the first IRI imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

NAME = "rfc3987_syntax"


def is_valid_syntax(term: str, value: str) -> bool:
    """As the package's own."""
    if getattr(sys.modules.get(NAME), "is_valid_syntax", None) is is_valid_syntax:
        del sys.modules[NAME]
    return bool(importlib.import_module(NAME).is_valid_syntax(term, value))


if importlib.util.find_spec(NAME) and "jsonschema" not in sys.modules:
    late = types.ModuleType(NAME)
    late.is_valid_syntax = is_valid_syntax  # type: ignore[attr-defined]
    sys.modules[NAME] = late
