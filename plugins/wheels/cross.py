"""zig as CMake's compiler for another kind of machine: what is run for each file, and the toolchain file that names it.

python cross.py cc x86_64-linux-gnu.2.28 ARGUMENT...
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

from targets import Target

_ARM = re.compile(r"-march=armv(\d+)(?:\.(\d+))?-a((?:\+\w+)*)")
_FEATURES = {"fp16": "fullfp16"}  # GCC's names of Arm's extensions where LLVM's differ
COMPILERS = ("cc", "c++")
# zig's own words for what CMake asks a system's tools for. A file for macOS is written as it shall be, so nothing needs
# install_name_tool, which CMake looks for all the same.
TOOLS = {"Linux": ("ar", "ranlib"), "Windows": ("ar", "ranlib", "rc"), "Darwin": ("ar", "ranlib", "install_name_tool")}
TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME {system})
set(CMAKE_SYSTEM_PROCESSOR {processor})
set(CMAKE_C_COMPILER "{folder}/cc")
set(CMAKE_CXX_COMPILER "{folder}/c++")
set(CMAKE_AR "{folder}/ar" CACHE FILEPATH "")
set(CMAKE_RANLIB "{folder}/ranlib" CACHE FILEPATH "")
# A wheel holds no links: libraries have no versions in their names.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)
# Nothing of the machine that compiles gets in: neither its libraries, nor its folders, nor symbols that name them.
foreach(kind LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${{kind}} ONLY)
endforeach()
set(CMAKE_FIND_ROOT_PATH "{folder}")
set(CMAKE_C_FLAGS_INIT "{flags}")
set(CMAKE_CXX_FLAGS_INIT "{flags}")
"""
OF_SYSTEM = {
    "Linux": "",
    "Windows": 'set(CMAKE_RC_COMPILER "{folder}/rc")\n'
    'string(APPEND CMAKE_SHARED_LINKER_FLAGS_INIT " \\"{exports}\\"")\n',
    "Darwin": 'set(CMAKE_INSTALL_NAME_TOOL "{folder}/install_name_tool" CACHE FILEPATH "")\n'
    'set(CMAKE_OSX_ARCHITECTURES {processor} CACHE STRING "")\n',
}


def write_toolchain(target: Target, folder: Path, sources: dict[Path, str]) -> Path:
    """Write compilers and CMake's toolchain file into the folder.

    `sources`: folders -> what files below them are called in the libraries, so that these are the same wherever they
    are compiled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*COMPILERS, *TOOLS[target.system]):
        called = f"{name} {target.triple}" if name in COMPILERS else name
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {called} "$@"\n', "utf-8")
        program.chmod(0o755)
    flags = " ".join(
        ["-g0", "-Werror=date-time", *(f"-ffile-prefix-map={path}={name}" for path, name in sources.items())]
    )
    file = folder / "toolchain.cmake"
    text = TOOLCHAIN + OF_SYSTEM[target.system]
    told = {"system": target.system, "processor": target.processor, "folder": folder, "flags": flags}
    file.write_text(text.format(**told, exports=Path(__file__).with_name("windows.c")), "utf-8")
    return file


def for_zig(arguments: list[str]) -> list[str]:
    """A compiler's arguments as zig takes them.

    It refuses GCC's -march=armv8.2-a+fp16, and its own -mcpu=generic+v8_2a+fullfp16 would compile zig's C++ library
    anew for each kind of processor: features are named to clang itself. A module for macOS is linked as a library,
    which programs load just as well, under its own name: zig takes the path in the build's folder. The triple names
    Apple's processor already.
    """
    taken: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-arch":
            next(rest, None)
        elif argument == "-bundle":
            file = Path(arguments[arguments.index("-o") + 1])
            taken += ["-dynamiclib", "-install_name", f"@rpath/{file.name}"]
        elif match := _ARM.fullmatch(argument):
            taken += _features(match)
        else:
            taken.append(argument)
    return taken


def for_linking(arguments: list[str]) -> list[str]:
    """What is left out of whatever is linked, programs that CMake tries included.

    zig compiles its C++ library once for what has symbols, and once more for what has none.
    """
    return [] if {"-c", "-E", "-S"} & set(arguments) else ["-s"]


def _features(match: re.Match[str]) -> list[str]:
    version = f"v{match[1]}.{match[2]}a" if match[2] else f"v{match[1]}a"
    names = [version, *(_FEATURES.get(name, name) for name in match[3].split("+")[1:])]
    signed = [f"-{name[2:]}" if name.startswith("no") else f"+{name}" for name in names]
    return [part for feature in signed for part in ("-Xclang", "-target-feature", "-Xclang", feature)]


def main(arguments: list[str]) -> None:
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None
    assert spec.origin is not None
    zig = str(Path(spec.origin).with_name("zig"))
    tool, *rest = arguments
    if tool in COMPILERS:
        triple, *rest = rest
        rest = ["-target", triple, *for_zig(rest), *for_linking(rest)]
    os.execv(zig, [zig, tool, *rest])


if __name__ == "__main__":
    main(sys.argv[1:])
