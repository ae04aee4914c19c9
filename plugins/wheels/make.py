"""Makes the wheels of EdgeLLM for other machines: core and plugins, and llama.cpp with code for each kind of processor.

Run by `make wheels`. Everything is from the package index and this checkout; zig compiles for every target. So that
the same sources give the same bytes, dates come from SOURCE_DATE_EPOCH, and paths are left out of the libraries.

    dist/                       the wheels
    build/wheels/<target>/      what was compiled, from which a second run goes on
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from binaries import faults  # noqa: E402
from cross import write_toolchain  # noqa: E402
from native import BUILD_VARIABLES, Native  # noqa: E402
from sources import Refused, Sources  # noqa: E402
from targets import TARGETS, USUAL, Target  # noqa: E402

PLUGINS = ROOT / "plugins"
PURE = (ROOT, PLUGINS / "edgellm-gguf", PLUGINS / "edgellm-onnx", PLUGINS / "edgellm-tune")
CLUSTER = PLUGINS / "edgellm-ray"  # Ray is fetched for no folder: it alone is larger than all else
TERNARY = PLUGINS / "edgellm-bitnet"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
EPOCH = "1577836800"  # 2020-01-01: zip files have no dates before 1980
# Who may read files where they were made, and when that was, is left out of wheels. Libraries are linked without what
# debuggers need: no strip of the machine that compiles writes them anew. They look for one another beside themselves
# from the start: the path of a folder, overwritten when they are installed, would leave its length in them.
SAME = ("wheel.reproducible=true", "install.strip=false", "cmake.define.CMAKE_BUILD_RPATH_USE_ORIGIN=ON")
# Of what llama.cpp installs, what no program loads.
EXCLUDED = ("/bin", "/include", "/lib", "/lib64", "/share", "*.dll.a")


class Maker:
    """Makes wheels with pip and the build tools of this Python's environment; fetches llama.cpp's sources only."""

    def __init__(self, work: Path, out: Path, jobs: int, patches: Sequence[Path] = ()) -> None:
        self.work, self.out = work, out
        table = tomllib.loads((PLUGINS / "edgellm-gguf" / "pyproject.toml").read_text("utf-8"))
        self.native = Native.read(PLUGINS / "edgellm-gguf", table["tool"]["edgellm"]["native"])
        self.sources = Sources(self.native, work, patches)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in BUILD_VARIABLES},
            "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", EPOCH),
            # llama.cpp asks git for its commit, and would be told that of EdgeLLM.
            "GIT_DIR": str(work / "no-git"),
            "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def pip_wheel(self, source: Path, *settings: str) -> Path:
        """The wheel of a folder, made with tools that are installed here."""
        scratch = self.work / "made"
        shutil.rmtree(scratch, ignore_errors=True)
        command = [*PIP, "wheel", "--no-deps"]
        command += ["--no-build-isolation", "--no-cache-dir", "--wheel-dir", str(scratch), str(source)]
        command += [f"--config-settings={setting}" for setting in settings]
        subprocess.run(command, check=True, env=self.environment)
        (made,) = scratch.glob("*.whl")
        self.out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(made, self.out / made.name))

    def library(self, target: Target) -> Path:
        """The binding with llama.cpp for all processors of a kind."""
        source, build = self.sources.folder(PIP, self.environment), self.sources.build
        folder = self.work / target.name
        toolchain = write_toolchain(target, folder / "toolchain", {ROOT: ".", folder: "build", source: "source"})
        # It installs among its own sources, too, from where files of another kind of machine would get into the wheel.
        shutil.rmtree(source / "llama_cpp" / "lib", ignore_errors=True)
        usual = (*self.native.settings, *self.native.builds["variants"])
        settings = [*{setting.partition("=")[0]: setting for setting in (*usual, *target.settings)}.values()]
        inputs: list[object] = [target, *settings, *self._inputs(settings)]
        key = hashlib.sha256(json.dumps(inputs, default=str).encode()).hexdigest()
        settings = [setting.replace("{here}", self.native.folder.as_posix()) for setting in settings]
        settings += [
            f"cmake.define.CMAKE_TOOLCHAIN_FILE={toolchain}",
            f"build-dir={folder / 'llama'}",
            f"wheel.tags={target.tag}",
            f"wheel.exclude={';'.join((*EXCLUDED, *target.left_out))}",
            *([f"wheel.build-tag={build}"] if build else []),
            *SAME,
            *([f"cmake.define.CMAKE_PROJECT_INCLUDE={HERE / 'apple.cmake'}"] if target.system == "Darwin" else []),
        ]
        packed = self.native.packed.replace("-", "_").replace("==", "-")
        name = "-".join(filter(None, (packed, build, target.tag))) + ".whl"
        kept = folder / name
        stamp = folder / f"{name}.key"
        if not kept.exists() or not stamp.exists() or stamp.read_text("utf-8") != key:
            shutil.copy2(self.pip_wheel(source, *settings), kept)
            stamp.write_text(key, "utf-8")
        shutil.copy2(kept, self.out / name)
        return self.out / name

    def _inputs(self, settings: list[str]) -> list[str]:
        """Text of the files that decide what is compiled, llama.cpp's own but for their hash."""
        named = [text.partition("{here}/")[2] for text in settings if "{here}/" in text]
        files = [self.native.folder / name for name in {*self.native.inputs, *named, self.native.requirement}]
        files += [HERE / name for name in ("requirements.txt", "cross.py", "apple.cmake", "windows.c", "make.py")]
        return [file.read_text("utf-8") for file in sorted(files)]

    def ternary(self, target: Target) -> Path:
        """The ternary engine, whose kernels are chosen when it starts."""
        folder = self.work / target.name
        toolchain = write_toolchain(target, folder / "toolchain", {ROOT: ".", folder: "build"})
        define = f"cmake.define.CMAKE_TOOLCHAIN_FILE={toolchain}"
        return self.pip_wheel(TERNARY, define, f"build-dir={folder / 'bitnet'}", f"wheel.tags={target.tag}", *SAME)

    def check(self, wheel: Path, target: Target) -> None:
        """
        Raises:
            Refused: the files in the wheel say something else than its tag.
        """
        if found := faults(wheel, target):
            raise Refused(f"{wheel.name}: " + "; ".join(found))
        n_bytes = wheel.stat().st_size
        if wheel.name.startswith("llama_cpp") and n_bytes > target.library_mib * 2**20:
            raise Refused(f"{wheel.name} has {n_bytes / 2**20:.1f} MiB, more than {target.library_mib}")


def require_wheels(targets: Sequence[Target]) -> None:
    """
    Raises:
        Refused: what an installation needs on some of these machines cannot be fetched here.
    """
    if names := [target.name for target in targets if target.libc != "glibc" or not target.older]:
        raise Refused(
            f"--python fetches nothing for {', '.join(names)}: pip tells what packages need on Linux alone, "
            "onnxruntime has no wheels for musl, and numpy none for 32-bit Arm; make these without it"
        )


def fetch_dependencies(out: Path, target: Target, wheels: list[Path], python: str) -> None:
    """What else an installation needs on such a machine with this Python, as wheels beside ours.

    Ours are named by their files: on an index others may have packages of these names.
    """
    command = [*PIP, "download", "--only-binary=:all:", "--dest", str(out)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--platform={platform}" for platform in target.older]
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    subprocess.run([*command, *map(str, wheels), *table["bundle"]], check=True)  # bundles bring what checks them
    # Only for answers that are kept to a grammar: it needs a newer glibc than all else.
    newer = f"--platform=manylinux_2_31_{target.processor}"
    subprocess.run([*command, newer, "--no-deps", *table["grammar"]], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help=f"kind of machine; {', '.join(USUAL)} where none is named"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the wheels")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheels", help="folder to compile in")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    parser.add_argument(
        "--python", action="append", default=[], metavar="3.13", help="add what this Python needs beside"
    )
    parser.add_argument("--patch", type=Path, action="append", default=[], help="fix of llama.cpp, for git apply -p1")
    options = parser.parse_args()
    maker = Maker(options.work.resolve(), options.output.resolve(), options.jobs, options.patch)
    targets = [TARGETS[name] for name in options.target or USUAL]
    try:
        if options.python:
            require_wheels(targets)
        pure = [maker.pip_wheel(folder) for folder in PURE]
        maker.pip_wheel(CLUSTER)
        wheels = [*pure]
        for target in targets:
            made = [maker.library(target), maker.ternary(target)]
            for wheel in made:
                maker.check(wheel, target)
            for python in options.python:
                fetch_dependencies(maker.out, target, [*pure, *made], python)
            wheels += made
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:6.2f} MiB  {wheel}")
    for target in targets:
        if target.remark:
            print(f"{target.name}: {target.remark}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
