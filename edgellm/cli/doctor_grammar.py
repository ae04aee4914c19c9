"""What `edgellm doctor` says of structured output."""

from __future__ import annotations

from edgellm.cli.report import Report
from edgellm.text import grammar_library


def examine_grammar(report: Report) -> None:
    library = grammar_library.look()
    if library.is_system_too_old:
        needed, there = map(grammar_library.dotted, (library.needed, library.glibc))
        report.note(
            f"structured output needs glibc {needed} or newer, and this is {there}: no answer can be kept to a grammar "
            "or schema",
            "a newer release of the system; everything else works with this one",
        )
    elif not library.version:
        report.note(
            "without llguidance no answer can be kept to a grammar or schema", "pip install 'llguidance>=1.9,<2'"
        )
