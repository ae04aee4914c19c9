"""What `edgellm doctor` found, as data and as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgellm.errors import EdgeLLMError
from edgellm.units import counted, show_size

T = TypeVar("T")

SCHEMA = 1
MOST_ROWS = 40  # of what a backend says of its build
LIBRARIES = ("click", "jinja2", "llguidance", "msgspec", "numpy", "pluggy", "starlette", "uvicorn")


@dataclass(frozen=True, slots=True)
class Finding:
    """`problem`: something is broken or missing. `note`: worth knowing, nothing to mend unless `fix` says so."""

    level: str
    text: str
    fix: str = ""


@dataclass(slots=True)
class Report:
    """Everything that doctor says; `asdict` of it is the JSON."""

    schema: int = SCHEMA
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] | None = None
    backends: list[dict[str, Any]] = field(default_factory=list)
    plugins: list[dict[str, Any]] = field(default_factory=list)
    store: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    calibrations: dict[str, Any] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)  # backends whose calibration does not count
    history: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    used: str = ""
    findings: list[Finding] = field(default_factory=list)

    def problem(self, text: str, fix: str) -> None:
        self.findings.append(Finding("problem", text, fix))

    def note(self, text: str, fix: str = "") -> None:
        self.findings.append(Finding("note", text, fix))

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """The action's result, or None and a problem."""
        try:
            return action()
        except EdgeLLMError as error:
            self.problem(f"{what}: {error.message}", error.hint)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
            self.problem(f"{what} failed: {fault}", "report this, with the output of this command")
        return None


def render(report: Report) -> str:
    from edgellm import explain
    from edgellm.types.machine import Accelerator

    numbers = report.versions
    lines = [f"EdgeLLM {numbers['edgellm']}, Python {numbers['python']}, {numbers['platform']}"]
    lines += ["  " + ", ".join(f"{name} {numbers[name]}" for name in LIBRARIES)]
    if report.machine:
        lines += ["", "Machine", f"  {report.machine['name']}", f"  {' '.join(report.machine['cpu']['isa'])}"]
        lines += [f"  {explain.accelerator(Accelerator(**row))}" for row in report.machine["accelerators"]]
    lines += ["", "Backends"]
    for row in report.backends:
        lines.append(f"  {row['name']:<8} {'can run' if row['can_run'] else 'cannot run'}")
        about = [f"    {name}: {text}" for name, text in row["about"].items()]
        n_more = len(about) - MOST_ROWS
        lines += about if n_more <= 0 else [*about[:MOST_ROWS], f"    and {n_more:,} more"]
    lines += ["", "Plugins"]
    lines += [f"  {row['name']:<8} {row['status']:<6} {row['distribution']}" for row in report.plugins]
    if store := report.store:
        lines += ["", "Store", f"  {store['path']}: {counted(store['files'], 'file')}, {show_size(store['bytes'])}; "]
        lines[-1] += f"{show_size(store['free_bytes'])} free"
    lines += render_measured(report)
    lines += ["", f"Used: {report.used}" if report.used else "Used: unknown"]
    lines += render_findings(report, "problem", "Problems") + render_findings(report, "note", "Notes")
    return "\n".join(lines)


def render_measured(report: Report) -> list[str]:
    measured = (name for name, rates in report.calibrations.items() if rates is not None)
    rates = [f"{name} (does not count)" if name in report.set_aside else name for name in measured]
    lines = [
        "",
        "Measured",
        f"  kernels: {', '.join(rates) or 'none; speed is predicted from processors of this kind'}",
    ]
    if report.history:
        learned, loads = len(report.history["corrections"]), report.history["lines"]
        lines_read = f"{counted(loads, 'line')} in {report.history['path']}"
        lines.append(f"  loads: {lines_read}, {counted(learned, 'correction')} in force")
    return lines


def render_findings(report: Report, level: str, title: str) -> list[str]:
    lines = []
    for finding in (finding for finding in report.findings if finding.level == level):
        lines.append(f"  {finding.text}")
        lines += [f"    fix: {finding.fix}"] if finding.fix else []
    return ["", title, *lines] if lines else ["", f"{title}: none"]
