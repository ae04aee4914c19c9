"""Which package a file of a Debian root is from, and under which licence that is: for the SBOM of an image.

Source: dpkg's database (`var/lib/dpkg`), and the copyright file of each package, whose machine-readable form (DEP 5)
names licences. Where it is prose, the SBOM names the file, which is in the image.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.bundle.papers import PackedPart
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError

STATUS = "var/lib/dpkg/status"
_DOCS = "usr/share/doc"
_INFO = "var/lib/dpkg/info"
_MERGED = ("bin/", "sbin/", "lib/", "lib64/")  # since Debian 12 these are links into usr/
_LICENCE = re.compile(r"^License:[ \t]*(\S[^\n]{0,100})", re.MULTILINE)
_BYTECODE = re.compile(r"(.*/)?__pycache__/([^/]+?)\.cpython-\d+(?:\.opt-\d)?\.pyc")
MOST_PACKAGES = 100_000  # Debian has some 65,000 in all
AS_INSTALLED = "of the packages that made it when they were installed"


@dataclass(frozen=True, slots=True)
class Package:
    name: str
    version: str
    arch: str

    @property
    def purl(self) -> str:
        return f"pkg:deb/debian/{self.name}@{self.version}?arch={self.arch}"


def is_read(path: str) -> bool:
    """Whether the file at `path` in a root is one of those that `parts` is told the text of."""
    folder, _, name = path.rpartition("/")
    is_copyright = name == "copyright" and posixpath.dirname(folder) == _DOCS
    return path == STATUS or is_copyright or (folder == _INFO and name.endswith(".list"))


def parts(files: Mapping[str, Content], texts: Mapping[str, str], licence: str) -> list[PackedPart]:
    """The root's files as packages; what belongs to none is a part of its own. `texts`: of the files that `is_read`
    names; `licence`: of what states none.

    Raises:
        UsageError: a package, or the whole root, states none, and `licence` is ""; there are more than MOST_PACKAGES.
    """
    packages = _packages(texts.get(STATUS, ""))
    if not packages:
        return [PackedPart("system", "root", "", licence or _unstated("the root"), tuple(files.values()))]
    owners = _owners(packages, files, texts)
    by_package: dict[Package, list[Content]] = defaultdict(list)
    rest = []
    for path, content in files.items():
        source = _BYTECODE.fullmatch(path)
        owner = owners.get(path) or (owners.get(f"{source[1] or ''}{source[2]}.py") if source else None)
        if owner is None:
            rest.append(content)
        else:
            by_package[owner].append(content)
    stated = {name: _licence(name, texts) for name in {package.name for package in by_package}}
    rows = [
        PackedPart("debian", p.name, p.version, stated[p.name] or licence or _unstated(p.name), tuple(own), p.purl)
        for p, own in sorted(by_package.items(), key=lambda row: row[0].name)
    ]
    return [*rows, PackedPart("system", "as installed", "", AS_INSTALLED, tuple(rest))] if rest else rows


def _packages(status: str) -> list[Package]:
    rows = []
    if status.count("\n\n") > MOST_PACKAGES:
        raise UsageError(f"{STATUS} names more than {MOST_PACKAGES} packages", hint="take another root", param="root")
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and {"Package", "Version", "Architecture"} <= fields.keys():
            rows.append(Package(fields["Package"], fields["Version"], fields["Architecture"]))
    return rows


def _owners(packages: list[Package], files: Mapping[str, Content], texts: Mapping[str, str]) -> dict[str, Package]:
    """Each list is read once, however many packages there are."""
    owners: dict[str, Package] = {}
    by_name = {f"{_INFO}/{name}": p for p in packages for name in (p.name, f"{p.name}:{p.arch}")}
    for name, package in by_name.items():
        for line in texts.get(f"{name}.list", "").splitlines():
            path = line.strip("/")
            if path not in files and path.startswith(_MERGED):
                path = f"usr/{path}"
            if path in files:
                owners[path] = package
    return owners | {path: by_name[name] for path in files if (name := path.rpartition(".")[0]) in by_name}


def _licence(package: str, texts: Mapping[str, str]) -> str:
    path = f"{_DOCS}/{package}/copyright"
    text = texts.get(path, "")
    if not text:
        return ""
    names = sorted(set(_LICENCE.findall(text))) if text.startswith("Format:") else []
    return " AND ".join(name.strip() for name in names) or f"see {posixpath.join('/', path)}"


def _unstated(what: str) -> str:
    """
    Raises:
        UsageError
    """
    hint = "say it with --root-licence, or take a root whose packages have copyright files"
    raise UsageError(f"{what} does not say under which licence it is", hint=hint, param="root_licence")
