"""Makes .venv, installs the core, then each plugin by itself: one that fails never stops the others.

Runs on a bare Python 3.11 before anything is installed, so it uses the standard library only. It knows no plugin by
name: a plugin whose library comes as source says so in its pyproject.toml, under [tool.edgellm.native].

    .venv/edgellm-setup.json    what was installed from which inputs, what failed and why; `edgellm doctor` reads it
    .venv/setup-<name>.log      everything pip said about one part
    <cache>/edgellm/wheels/     libraries built here before, by version, settings, compiler and processor
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alone import alone
from native import Failed, Native, compilers, digest
from optional import Optional, refuse_gpu, resolve, size_of
from progress import Progress
from ready import ready_wheels, stamps

ROOT = Path(__file__).resolve().parent.parent
CORE = "edgellm"
RECORD = "edgellm-setup.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One distribution of this repository."""

    name: str
    folder: Path
    native: Native | None = None
    optional: Optional | None = None
    compiles: bool = False  # its own C code, when it is installed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one part, as the record keeps it."""

    key: str  # fingerprint of the inputs
    status: str  # "installed" or "failed"
    note: str
    hint: str = ""
    seconds: float = 0.0
    extras: tuple[str, ...] = ()


def parts() -> list[Part]:
    """The core first, then plugins by name."""
    distributions = [Part(CORE, ROOT)]
    for pyproject in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        data = tomllib.loads(pyproject.read_text("utf-8"))
        tables = data.get("tool", {}).get("edgellm", {})
        native = Native.read(pyproject.parent, tables["native"]) if "native" in tables else None
        optional = Optional(**tables["optional"]) if "optional" in tables else None
        compiles = data.get("build-system", {}).get("build-backend", "").startswith("scikit_build_core")
        distributions.append(Part(data["project"]["name"], pyproject.parent, native, optional, compiles))
    return distributions


def fingerprint(part: Part) -> str:
    """Changes when installing the part again would give something else: `native/` holds what it compiles itself."""
    inputs: list[object] = [sys.version, (part.folder / "pyproject.toml").read_text("utf-8"), part.folder]
    inputs += [(file.name, file.read_text("utf-8")) for file in sorted((part.folder / "native").glob("*.*"))]
    if part.native:
        inputs += [part.native.build_inputs(), os.environ.get(part.native.prebuilt_env, "")]
    if part.native or part.compiles:
        inputs += stamps()
    return digest(*inputs)


def likely_cause(errors: list[str]) -> str:
    """Of all lines with "error" in them: a compiler's first, a traceback's last, or pip's last."""
    compiler = [line for line in errors if re.search(r":\d+: (fatal )?error:|CMake Error", line)]
    python = [line for line in errors if re.match(r"(\w+\.)*\w+Error: ", line)]
    return (compiler[:1] or python[-1:] or errors[-1:] or [""])[0][:300]


class Installer:
    """Runs the environment's own pip, one part at a time."""

    def __init__(self, venv: Path, extras: tuple[str, ...], *, gpu: bool = False) -> None:
        self.venv = venv
        self.gpu = gpu
        self.python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.before = self._read_record()
        self.after: dict[str, Outcome] = {}
        # Extras of an earlier `make test` stay: `make serve` would else take the test tools away again.
        core = self.before.get(CORE)
        self.extras = tuple(sorted({*extras, *(core.extras if core else ())}))

    def _read_record(self) -> dict[str, Outcome]:
        try:
            rows = json.loads((self.venv / RECORD).read_text("utf-8")) if self.python.exists() else {}
            return {name: Outcome(**row | {"extras": tuple(row["extras"])}) for name, row in rows.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}  # none yet, or one of another version: everything is installed again

    def make_venv(self) -> None:
        """Make the environment where there is none.

        Raises:
            Failed: this Python has no venv or no ensurepip.
        """
        if self.python.exists():
            return
        print(f"Making {self.venv} with Python {platform.python_version()}", flush=True)
        command = [sys.executable, "-m", "venv", str(self.venv)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(self.venv, ignore_errors=True)
            raise Failed(
                f"{sys.executable} cannot make a virtual environment: {(made.stdout + made.stderr).strip()}",
                "on Debian and Ubuntu: apt-get install python3-venv",
            )

    def pip(self, part: Part, arguments: list[str], progress: Progress) -> None:
        """Run pip, its words going to the part's log.

        Raises:
            Failed: pip did.
        """
        log = self.venv / f"setup-{part.name}.log"
        errors: list[str] = []
        # A session of its own, so that an interrupt ends pip and the compilers below it together.
        process = subprocess.Popen(
            [str(self.python), "-m", "pip", "--no-input", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", start_new_session=os.name == "posix",
        )  # fmt: skip
        assert process.stdout is not None
        try:
            with process.stdout, log.open("a", encoding="utf-8") as file, progress.alive():
                file.write(f"$ pip {' '.join(arguments)}\n")
                for line in process.stdout:
                    file.write(line)
                    progress(line)
                    if "error:" in line.lower():
                        errors.append(line.strip())
                status = process.wait()
        except BaseException:
            end_group(process)
            raise
        if status:
            raise Failed(likely_cause(errors) or f"pip exited with {status}", f"the whole log: {log}")

    def install(self, part: Part) -> str:
        """Install one part; return a note for the summary.

        Raises:
            Failed: with the reason.
        """
        (self.venv / f"setup-{part.name}.log").unlink(missing_ok=True)
        if part.compiles and (folder := ready_wheels(part.name, ROOT, functools.partial(compilers, cxx=False))):
            return self._install_ready(part, part.name, folder)
        note = self._install_native(part, part.native) if part.native else ""
        wanted = self.extras_of(part)
        extras = f"[{','.join(wanted)}]" if wanted else ""
        if part.optional:
            packages = resolve(self.python, f"{part.folder}{extras}")
            if not self.gpu:
                refuse_gpu(packages, self.python, part.optional)
            note = f"{len(packages)} packages of {size_of(packages)}"
            if packages:
                print(f"{part.name} needs {note}: {', '.join(package.name for package in packages)}", flush=True)
        self.pip(part, ["install", "--editable", f"{part.folder}{extras}"], Progress(part.name))
        return self._install_wheels(part) if part.name == CORE else note

    def extras_of(self, part: Part) -> tuple[str, ...]:
        """The core's are those that were asked for; an optional part has its own, and what its tests need."""
        if part.optional:
            return (part.optional.extra, *(extra for extra in self.extras if extra == "test"))
        return self.extras if part.name == CORE else ()

    def _install_wheels(self, part: Part) -> str:
        """What the core does without where there is no wheel: compiling it would need Rust."""
        project = tomllib.loads((part.folder / "pyproject.toml").read_text("utf-8"))["project"]
        wanted = project.get("optional-dependencies", {}).get("grammar", [])
        try:
            if wanted:
                self.pip(part, ["install", "--only-binary=:all:", *wanted], Progress(part.name))
        except Failed:
            return f"without {wanted[0]}, so no answer can be kept to a grammar"
        return ""

    def _install_ready(self, part: Part, requirement: str, folder: Path) -> str:
        found = ["--no-index", "--find-links", str(folder), requirement]
        self.pip(part, ["install", "--force-reinstall", "--no-deps", *found], Progress(part.name))
        self.pip(part, ["install", "--find-links", str(folder), requirement], Progress(part.name))  # what it needs
        return f"{requirement} taken from {folder}"

    def _install_native(self, part: Part, native: Native) -> str:
        if native.prebuilt_folder() is None and (folder := ready_wheels(native.packed, ROOT, compilers)):
            return self._install_ready(part, native.packed, folder)
        settings, shelf = native.choose()
        started = time.monotonic()
        wheel = next(iter(shelf.glob("*.whl")), None)
        note = f"{native.wheel} taken from {shelf}"
        if wheel is None:
            wheel = self._build(part, native, settings, shelf)
            note = f"{native.wheel} built in {time.monotonic() - started:.0f} s, kept in {shelf}"
        if folder := native.prebuilt_folder():
            note = f"uses {folder}; keep {native.prebuilt_env} set when EdgeLLM runs"
        self.pip(part, ["install", "--force-reinstall", "--no-deps", str(wheel)], Progress(part.name))
        return note

    def _build(self, part: Part, native: Native, settings: tuple[str, ...], shelf: Path) -> Path:
        options = [f"--config-settings={setting}" for setting in settings]
        print(f"Building {native.wheel} from source: fetching it and its build tools first", flush=True)
        shelf.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=shelf.parent, prefix="building-") as scratch:
            # In two steps: pip checks hashes of requirement files only, to which older ones apply no settings.
            source = ["download", "--no-deps", "--no-binary", native.wheel.partition("==")[0], "--dest", scratch]
            self.pip(part, [*source, "--requirement", str(native.folder / native.requirement)], Progress(native.wheel))
            archive = next(Path(scratch).iterdir())
            # pip's own cache is left alone: it does not key on the processor that -march=native built for.
            build = ["wheel", "-v", "--no-deps", "--no-cache-dir", "--wheel-dir", scratch]
            self.pip(part, [*build, *options, str(archive)], Progress(native.wheel))
            built = next(iter(Path(scratch).glob("*.whl")))
            shelf.mkdir(exist_ok=True)
            return built.replace(shelf / built.name)

    def run(self, part: Part) -> Outcome:
        """Install the part unless it is there and nothing changed; record the outcome."""
        key = fingerprint(part)
        extras = self.extras_of(part)
        old = self.before.get(part.name)
        # With --gpu, what it needs may have been taken away for another build.
        is_same = old is not None and (old.key, old.status, old.extras) == (key, "installed", extras)
        if old and is_same and not (self.gpu and part.optional):
            return old
        print(f"Installing {part.name}", flush=True)
        started = time.monotonic()
        try:
            outcome = Outcome(key, "installed", self.install(part), extras=extras)
        except Failed as failed:
            outcome = Outcome(key, "failed", failed.reason, failed.hint, extras=extras)
        outcome = replace(outcome, seconds=round(time.monotonic() - started, 1))
        self.after[part.name] = outcome
        rows = {name: asdict(row) for name, row in (self.before | self.after).items()}
        (self.venv / RECORD).write_text(json.dumps(rows, indent=1), "utf-8")
        return outcome

    def summary(self) -> str:
        """A line for each part that was worked on, with its hint below; empty where there was none."""
        if not self.after:
            return ""
        lines = [f"{'part':<16} {'status':<10} {'time':>8}  note"]
        for name, row in self.after.items():
            lines.append(f"{name:<16} {row.status:<10} {row.seconds:>6} s  {row.note}".rstrip())
            lines += [f"{'':<37}{row.hint}"] if row.hint else []
        return "\n".join(lines) + "\n"


def end_group(process: subprocess.Popen[str]) -> None:
    """Interrupt pip and what it started; kill what is left after ten seconds."""
    if os.name != "posix":
        process.kill()
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def set_up(installer: Installer, optional: Sequence[str]) -> str:
    """Install all parts but the optional ones that are not named; return a summary.

    Raises:
        Failed: there is no environment, or no core.
    """
    installer.make_venv()
    for part in parts():
        if part.optional and part.name not in optional:
            continue
        outcome = installer.run(part)
        if part.name == CORE and outcome.status == "failed":
            raise Failed(outcome.note, outcome.hint)
    return installer.summary()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="environment to make or update")
    parser.add_argument("--extras", default="", help="extras of the core, comma-separated: test,check")
    parser.add_argument("--with", default="", dest="optional", help="parts that are left out otherwise: edgellm-tune")
    parser.add_argument("--gpu", action="store_true", help="install packages for GPUs, which are gigabytes")
    options = parser.parse_args(arguments)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    venv, extras = options.venv.resolve(), tuple(filter(None, options.extras.split(",")))
    try:
        with alone(venv.with_name(f"{venv.name}.lock")):
            summary = set_up(Installer(venv, extras, gpu=options.gpu), options.optional.split(","))
    except Failed as failed:
        print(f"Set-up failed: {failed.reason}\n  {failed.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished is kept; the same command goes on from here.", file=sys.stderr)
        return 130
    print(summary, end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
