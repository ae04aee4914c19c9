"""Names, held over the syntax tree: no local hides an imported module, one class has one name, few files lie loose."""

from __future__ import annotations

import ast
import gc
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "edgellm"
LOOSE = {"files.py", "settings.py", "tables.py", "units.py", "version.py"}
Scope = (  # of names that are local
    ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
)  # fmt: skip

_IMPORT = re.compile(r"^[ \t]*(?:from ([\w.]+) import (\([^)]*\)|.+)|import (.+))$", re.MULTILINE)
_BINDING = r"(?<![\w.])(?:{})\b(?=\s*(?:[,:;)\]}}#\\]|[^\s\w.(\[]{{0,3}}=|in\b|if\b|$))"


def sources(*folders: str) -> list[Path]:
    """Python files of ours below `folders`; what a build left there is not ours."""
    files = (file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return sorted(file for file in files if not {"build", "_vendor", "training"} & set(file.relative_to(ROOT).parts))


@pytest.fixture(autouse=True, scope="module")
def many_trees() -> Iterator[None]:
    """Trees hold no circles: the collector would only walk through all of them, for most of the time that it takes."""
    gc.disable()
    yield
    tree_of.cache_clear()
    gc.enable()


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def import_roots() -> list[Path]:
    return [ROOT, *(folder for folder in (ROOT / "plugins").iterdir() if folder.is_dir()), ROOT / "tests"]


@cache
def is_module(dotted: str) -> bool:
    """Whether `dotted` is a module of ours or of the standard library; of other packages it is not known."""
    relative = Path(*dotted.split("."))
    if any((root / relative).is_dir() or (root / f"{relative}.py").is_file() for root in import_roots()):
        return True
    if dotted.split(".", maxsplit=1)[0] not in sys.stdlib_module_names:
        return False
    try:
        return find_spec(dotted) is not None
    except ModuleNotFoundError:  # the parent is a module, no package
        return False


def imported_modules(tree: ast.AST) -> set[str]:
    """Names under which the file imports modules, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name for alias in node.names if is_module(f"{node.module}.{alias.name}")}
    return names


def locals_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, line) of each argument, and of what is assigned inside functions and comprehensions."""
    nodes = [(tree, False)]
    for node, is_inside in nodes:
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif is_inside and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif is_inside and isinstance(node, ast.ExceptHandler | ast.MatchAs) and node.name:
            yield node.name, node.lineno
        nodes.extend((child, is_inside or isinstance(node, Scope)) for child in ast.iter_child_nodes(node))


def may_hide(source: str) -> bool:
    """Whether a module that is imported is named where something may be assigned: few files have to be parsed."""
    names: set[str] = set()
    for module, some, whole in _IMPORT.findall(source):
        words = set(re.findall(r"\w+", some or whole))
        names |= words if whole or any(is_module(f"{module}.{word}") for word in words) else set()
    return re.search(_BINDING.format("|".join(names)), _IMPORT.sub("", source), re.MULTILINE) is not None


def hidden(tree: ast.AST) -> list[tuple[str, int]]:
    """Locals that hide a module which the file imports, with their lines."""
    modules = imported_modules(tree)
    return sorted({(name, line) for name, line in locals_of(tree) if name in modules})


def test_no_local_hides_an_imported_module() -> None:
    files = sources("edgellm", "plugins", "benchmarks", "tests")
    looked_at = [file for file in files if may_hide(file.read_text())]
    places = [f"{file.relative_to(ROOT)}:{line}: {name}" for file in looked_at for name, line in hidden(tree_of(file))]

    assert len(files) > 400
    assert places == []


@pytest.mark.parametrize(
    "code",
    [
        "import json\ndef f(json): pass",
        "import json\nf = lambda json: 1",
        "import json\ndef f():\n json = 1",
        "import json\ndef f():\n for json in (): pass",
        "import json\nrows = [1 for json in ()]",
        "import json\ndef f():\n with open('x') as json: pass",
        "import json\ndef f():\n try: pass\n except ValueError as json: pass",
        "import json\ndef f():\n if json := 1: pass",
        "from edgellm import settings\ndef f():\n settings = 1",
        "from importlib import resources\ndef f():\n a, *resources = ()",
        "def f():\n from edgellm.catalog import lookup\ndef g(lookup): pass",
    ],
)
def test_each_way_of_hiding_is_seen(code: str) -> None:
    assert may_hide(code)
    assert len(hidden(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import json\nclass A:\n json: int = 1",
        "from edgellm.files import write_atomic\ndef f(files): pass",
        "from dataclasses import field\ndef f(field): pass",
        "import os.path\ndef f(path): return os.path.join(path)",
    ],
)
def test_what_hides_no_module(code: str) -> None:
    assert hidden(ast.parse(code)) == []


def test_homes_are_looked_up_in_one_place() -> None:
    """`Path.expanduser` and `Path.home` end in a traceback for `~nobody/x` and for users without a home."""
    files = sources("edgellm", *map(str, (ROOT / "plugins").glob("edgellm-*")))
    places = {
        f"{file.relative_to(ROOT)}: {ast.unparse(node)}"
        for file in files
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and (node.attr == "expanduser" or ast.unparse(node) == "Path.home")
    }

    assert places == {"edgellm/files.py: os.path.expanduser"}


def twice(modules_of: dict[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(modules) for name, modules in modules_of.items() if len(modules) > 1}


def types_of(tree: ast.Module) -> Iterator[str]:
    """Public classes and aliases of types. A constant is in capitals; type variables of one letter are local."""
    for node in tree.body:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        yield from (name for name in names if name[0].isupper() and not name.isupper())


def test_a_public_type_has_a_name_of_its_own() -> None:
    modules_of = defaultdict(set)
    for file in sources("edgellm"):
        for name in types_of(tree_of(file)):
            modules_of[name].add(str(file.relative_to(ROOT)))

    assert {"SelectionContext", "Progress", "BodyT"} <= modules_of.keys()
    assert twice(modules_of) == {}


def imports_by_name(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """(module, name) of each name that is imported under its own name."""
    for file in files:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node.module, alias.name) for alias in node.names if alias.asname in (None, alias.name))


def test_a_function_that_is_imported_by_name_has_a_name_of_its_own() -> None:
    """Short names such as `parse` are for functions that are called as `module.parse`."""
    functions = {
        (".".join(file.relative_to(ROOT).with_suffix("").parts), node.name)
        for file in sources("edgellm")
        for node in tree_of(file).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    modules_of = defaultdict(set)
    for module, name in imports_by_name(sources("edgellm", "plugins", "benchmarks")):
        if (module, name) in functions:
            modules_of[name].add(module)

    assert twice(modules_of) == {}


def test_few_files_lie_beside_the_floors() -> None:
    files = {path.name for path in CORE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed"} | LOOSE
    assert len(LOOSE) <= 6


def test_no_module_is_run_from_the_current_folder() -> None:
    """`python -m NAME` runs NAME.py of the current folder, which may be somebody else's; -P and -I do not."""
    found = []
    for file in sources("edgellm", *(f"plugins/{folder.name}" for folder in (ROOT / "plugins").glob("edgellm-*"))):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.List | ast.Tuple):
                texts = [part.value if isinstance(part, ast.Constant) else "" for part in node.elts]
                found += [
                    f"{file}:{node.lineno}" for at, text in enumerate(texts) if text == "-m" and texts[at - 1] != "-P"
                ]
    shell = (CORE / "bundle" / "install.sh").read_text()
    found += [line for line in shell.splitlines() if re.search(r'python3?"? -[mc] ', line)]
    assert not found
