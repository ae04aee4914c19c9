"""The calls of official clients, as tests/clients/calls.toml lists them: the second part of docs/conformance.md.

`make test-clients` shows that each cell is true: a call has to work where the list names no refusal.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

LIST = Path(__file__).parent.parent / "clients" / "calls.toml"
HEADING = "## Official clients"
INTRODUCTION = """`make test-clients` makes these calls with unmodified clients against `edgellm serve`.
`tests/clients/requirements` and `tests/clients/node/package.json` name their releases, `tests/clients/calls.toml`
the calls. Each is made on each backend; those that ask for vectors or an order, of a small model for that, where the
backend has one (rerankers run as ONNX alone)."""


def pages_part(backends: tuple[str, ...]) -> str:
    """What the page says of clients, from HEADING to its end."""
    tables, n_calls, n_yes, n_refused = [], 0, 0, 0
    clients = tomllib.loads(LIST.read_text("utf-8"))["client"]
    for client in clients:
        tables += [
            f"### {client['name']}",
            "",
            f"| call | {' | '.join(backends)} |",
            "|---" * (1 + len(backends)) + "|",
        ]
        for call in client["calls"].values():
            cells = [_cell(call, backend) for backend in backends]
            n_calls += 1
            n_yes += cells.count("yes")
            n_refused += len(cells) - cells.count("yes")
            tables.append(f"| {call if isinstance(call, str) else call['call']} | {' | '.join(cells)} |")
        tables.append("")
    n_clients = len({client["name"].partition(",")[0] for client in clients})  # one of them speaks two APIs
    totals = f"{n_calls} calls of {n_clients} clients: {n_yes} cells are yes, {n_refused} a refusal."
    return "\n".join([HEADING, "", f"{INTRODUCTION} {totals}", "", *tables])


def _cell(call: str | dict[str, str], backend: str) -> str:
    if isinstance(call, str):
        return "yes"
    return f"`{call[backend]}`" if backend in call else "yes"
