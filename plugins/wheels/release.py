"""A release of this checkout: every wheel, their hashes with a signature, and notes from CHANGELOG.md.

Run by `make release`. Nothing is uploaded and no tag is set: what is left to do is printed at the end.

    dist/release/*.whl             made anew, each checked against its tag
    dist/release/SHA256SUMS        as sha256sum writes it
    dist/release/SHA256SUMS.minisig
    dist/release/NOTES.md          the version's part of CHANGELOG.md
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from getpass import getpass
from pathlib import Path

from advisories import told

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WORKFLOWS = ROOT / ".github" / "workflows"


class Refused(Exception):
    """No release can be made of this checkout: why, and what to do."""


def version() -> str:
    """Of the core and every plugin.

    Raises:
        Refused: they differ.
    """
    tables = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
    versions = {file: tomllib.loads(file.read_text("utf-8"))["project"]["version"] for file in tables}
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{file.parent.name} {version}" for file, version in versions.items())
        raise Refused(f"versions differ: {told}: write the same into each pyproject.toml")
    return versions[tables[0]]


def notes(changelog: str, release: str) -> str:
    """What CHANGELOG.md says of a release.

    Raises:
        Refused: it has no such heading, with a date.
    """
    match = re.search(rf"^## \[{re.escape(release)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if match is None or not match[1].strip():
        raise Refused(f"CHANGELOG.md has no text below '## [{release}] - YYYY-MM-DD': name the release there")
    return match[1].strip() + "\n"


def require_clean() -> None:
    """
    Raises:
        Refused: what would be built is not what is committed.
    """
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    if status.stdout:
        raise Refused(f"not committed:\n{status.stdout}commit or remove it: a release is what others can check out")


def try_out(wheels: Path) -> None:
    """Install core and backends from the wheels into a new environment, and let doctor look at them.

    What they need besides comes from the index. On a system that no wheel is made for, pip says so.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder) / "bin"
        ours = [str(next(wheels.glob(f"{name}-*.whl"))) for name in ("edgellm", "edgellm_gguf", "edgellm_onnx")]
        found = ["--find-links", str(wheels), *ours, "edgellm-bitnet"]
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *found], check=True)
        subprocess.run([programs / "edgellm", "doctor"], check=True)


def sign(sums: Path, key: Path, release: str) -> None:
    """Write the signature beside, in minisign's format; a password is asked for where the key has one."""
    from minisign import SecretKey

    secret = SecretKey.from_bytes(key.read_bytes())
    if secret.is_encrypted():
        secret.decrypt(getpass(f"Password of {key}: "))
    about = f"edgellm {release}"
    signature = secret.sign(sums.read_bytes(), untrusted_comment=f"signature of {about}", trusted_comment=about)
    sums.with_name(f"{sums.name}.minisig").write_bytes(bytes(signature) + b"\n")


def make(out: Path, release: str, targets: list[str]) -> None:
    """Wheels in an empty folder, checked, and their hashes."""
    shutil.rmtree(out, ignore_errors=True)
    named = [f"--target={target}" for target in targets]
    subprocess.run([sys.executable, HERE / "make.py", f"--output={out}", *named], check=True)
    wheels = sorted(out.glob("*.whl"))
    subprocess.run([BIN / "twine", "check", "--strict", *wheels], check=True)
    try_out(out)
    lines = [f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n" for wheel in wheels]
    (out / "SHA256SUMS").write_text("".join(lines), "utf-8")
    (out / "NOTES.md").write_text(notes((ROOT / "CHANGELOG.md").read_text("utf-8"), release), "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "release")
    parser.add_argument("--target", action="append", default=[], help="kind of machine, as for make wheels")
    parser.add_argument("--key", type=Path, help="secret key of minisign (edgellm bundle key makes one)")
    parser.add_argument("--unsigned", action="store_true", help="make no signature")
    options = parser.parse_args()
    try:
        if (options.key is None) is not options.unsigned:
            raise Refused("name the key that signs: make release ARGS='--key FILE', or --unsigned")
        release = version()
        notes((ROOT / "CHANGELOG.md").read_text("utf-8"), release)
        require_clean()
        subprocess.run(
            [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS.glob("*.yml")],
            check=True,
        )
        make(options.output, release, options.target)
        if options.key:
            sign(options.output / "SHA256SUMS", options.key, release)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"no release: this failed: {' '.join(map(str, failed.cmd))}", file=sys.stderr)
        return 1
    print(told())
    print(
        f"{options.output} holds edgellm {release}. To publish it: git tag v{release}, push the tag, upload the folder."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
