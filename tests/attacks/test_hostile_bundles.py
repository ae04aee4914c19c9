"""A bundle that somebody changed, cut or made up is refused, whatever byte it is, in little memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from minisign import KeyPair
from support import bundles
from support.refusals import refuses

from edgellm.bundle import layout, reader
from edgellm.bundle import manifest as manifests
from edgellm.bundle.manifest import DIGEST, NAME, PIECE, SIGNATURE, Manifest
from edgellm.bundle.signature import sign
from edgellm.bundle.writer import Content
from edgellm.errors import BadArtifact, UnsupportedArtifact, UntrustedBundle

MEMORY_BYTES = 200 * 1024**2


def check(path: Path) -> None:
    """As `edgellm bundle verify --key` does."""
    with reader.opened(path, bundles.PUBLIC) as bundle:
        reader.verify(bundle)


def parts_of(content: bytes) -> list[tuple[int, int]]:
    """Where something else begins: headers, fillers, files, zeros."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
    edges = {0, len(content)}
    for member in members:
        edges |= {member.offset, member.offset_data - layout.BLOCK, member.offset_data}
        edges |= {member.offset_data + member.size, member.offset_data + member.size + -member.size % layout.BLOCK}
    ordered = sorted(edges)
    return [(begin, end) for begin, end in itertools.pairwise(ordered) if begin < end]


@pytest.mark.parametrize(
    "model_bytes", [300_000, pytest.param(5_000_000, marks=pytest.mark.slow(25))], ids=["small", "5-mb"]
)
def test_any_flipped_byte_is_noticed(model_bytes, tmp_path):
    path = tmp_path / "x.edgellm"
    bundles.make(path, bundles.contents(model_bytes))
    check(path)
    content = path.read_bytes()
    rng = random.Random(1)
    places = [rng.randrange(*part) for part in parts_of(content) for _ in range(1000 // len(parts_of(content)) + 1)]

    for at in places:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ (1 << rng.randrange(8))]))
        with pytest.raises((BadArtifact, UnsupportedArtifact, UntrustedBundle)):
            check(path)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
    check(path)
    assert len(places) >= 1000


def test_any_end_but_the_right_one_is_noticed(tmp_path):
    path = tmp_path / "x.edgellm"
    bundles.make(path, bundles.contents(5_000_000))
    content = path.read_bytes()

    for length in (*range(0, len(content), 64 * 1024), *range(len(content) - 1536, len(content), 256)):
        path.write_bytes(content[:length])
        with pytest.raises(BadArtifact):
            check(path)
    path.write_bytes(content + b"\0")
    with refuses(BadArtifact):
        check(path)


def test_a_bundle_of_somebody_else_is_not_trusted(tmp_path):
    bundles.make(tmp_path / "x.edgellm")

    with refuses(UntrustedBundle), reader.opened(tmp_path / "x.edgellm", KeyPair.generate().public_key):
        pass


def test_a_manifest_of_another_bundle_is_noticed(tmp_path):
    """Signed by the right key, and for other files."""
    one, two = tmp_path / "1", tmp_path / "2"
    bundles.make(one, bundles.contents(300_000))
    bundles.make(two, [*bundles.contents(300_000)[:2], Content.of(f"{bundles.FOLDER}/toy.gguf", bytes(300_000)),
                       *bundles.contents()[3:]])  # fmt: skip
    with tarfile.open(one) as archive:
        head = archive.getmember("empty").offset
    mixed = one.read_bytes()[:head] + two.read_bytes()[head:]
    (tmp_path / "mixed").write_bytes(mixed)

    with refuses(BadArtifact):
        check(tmp_path / "mixed")


def changed(**changes: object) -> bytes:
    manifest = bundles.about(
        files=tuple(content.entry for content in sorted(bundles.contents(10), key=lambda c: c.path))
    )
    document = json.loads(manifests.encode(manifest))
    document |= changes
    return json.dumps(document).encode()


def entry(path: str, **changes: object) -> dict[str, object]:
    return {"path": path, "bytes": 0, "sha256": "0" * 64} | changes


def files(*extra: dict[str, object]) -> list[object]:
    rows = json.loads(changed())["files"]
    return sorted([*rows, *extra], key=lambda row: row["path"])


def with_python(archive: str, program: str) -> bytes:
    interpreter = {"archive": archive, "program": program, "bytes": 1}
    return changed(targets=[json.loads(changed())["targets"][0] | {"interpreter": interpreter}])


def target(**changes: object) -> bytes:
    return changed(targets=[json.loads(changed())["targets"][0] | changes])


def served(*arguments: str, **model: str) -> bytes:
    of_target = json.loads(changed())["targets"][0]["model"] | model
    return target(model=of_target, serve=[f"{of_target['id']}:{of_target['quant']}", "--offline", *arguments])


WHEEL = "wheels/a-1-py3-none-any.whl"


def asked(*requires: str) -> bytes:
    """Of pip."""
    of_target = json.loads(changed())["targets"][0] | {"wheels": [WHEEL], "requires": requires}
    return changed(files=files(entry(WHEEL)), targets=[of_target])


HOSTILE = {
    "parent": changed(files=files(entry("../x"))),
    "parent-inside": changed(files=files(entry("a/../../x"))),
    "absolute": changed(files=files(entry("/etc/passwd"))),
    "dot": changed(files=files(entry("./x"))),
    "no-name": changed(files=files(entry(""))),
    "two-slashes": changed(files=files(entry("a//b"))),
    "backslash": changed(files=files(entry("a\\b"))),
    "drive": changed(files=files(entry("c:x"))),
    "control": changed(files=files(entry("a\x1b[2J"))),
    "newline": changed(files=files(entry("a\n"))),
    "hidden": changed(files=files(entry(".bashrc"))),
    "flag": changed(files=files(entry("-rf"))),
    "not-ascii": changed(files=files(entry("ä"))),
    "long": changed(files=files(entry("x" * 241))),
    "many-folders": changed(files=files(entry("a/" * 9 + "x"))),
    "own-name": changed(files=files(entry(NAME))),
    "twice": changed(files=files(entry("run"))),
    "capitals": changed(files=files(entry("RUN"))),
    "file-and-folder": changed(files=files(entry("run/x"))),
    "not-sorted": changed(files=files()[::-1]),
    "no-files": changed(files=[]),
    "too-many-files": changed(files=[entry(f"f{no:07}") for no in range(10_001)]),
    "negative": changed(files=files(entry("x", bytes=-1))),
    "huge": changed(files=files(entry("x", bytes=2**60))),
    "hash-of-another-length": changed(files=files(entry("x", sha256="0" * 63))),
    "hash-with-newline": changed(files=files(entry("x", sha256="0" * 64 + "\n"))),
    "pieces-that-are-not": changed(files=files(entry("x", bytes=5, pieces=["0" * 64]))),
    "pieces-missing": changed(files=files(entry("x", bytes=5 * PIECE))),
    "name-is-a-path": changed(name="../x"),
    "release-zero": changed(release=0),
    "no-targets": changed(targets=[]),
    "plan-is-not-there": changed(targets=[json.loads(changed())["targets"][0] | {"plan": "plans/other.json"}]),
    "no-date": changed(expires="2027-13-01"),
    "no-json": b"{",
    "deep": b'{"schema":1,"files":' + b"[" * 100_000,
    "no-text": b'{"schema":1,"name":"\xff"}',
    "not-an-object": b"[]",
    "golden-is-not-there": changed(targets=[json.loads(changed())["targets"][0] | {"golden": "golden/x.json"}]),
    "no-plan": changed(targets=[json.loads(changed())["targets"][0] | {"plan": ""}]),
    "python-is-not-there": with_python("python/x.tar", "bin/python3"),
    "python-is-elsewhere": with_python("run", "../../bin/sh"),
    "python-is-absolute": with_python("run", "/bin/sh"),


    "option-of-pip": asked("edgellm[bundle]", "--log=/tmp/x", "--isolated"),
    "address-for-pip": asked("edgellm @ http://h/edgellm-1-py3-none-any.whl"),
    "served-to-a-network": served("--host", "0.0.0.0", "--api-key", "x", "--allow-manage"),
    "value-that-is-a-flag": served("--ctx", "--allow-manage"),
    "adapter-that-is-a-path": served("--adapter", "/etc/passwd"),
    "serves-another": target(serve=["other:F32", "--offline"]),
    "serves-nothing": target(serve=[]),
    "serves-a-flag": served(id="--api-key=x"),
    "serves-from-a-network": target(serve=["toy:F32"]),
    "model-with-newline": served(id="toy\nx"),
    "quant-that-turns-the-line": served(quant="\u202e23F"),
    "name-with-newline": target(name="a\nb"),
    "name-that-turns-the-line": target(name="\u202eb"),
    "no-name-of-a-target": target(name=""),
    "two-of-one-name": changed(targets=json.loads(changed())["targets"] * 2),
    "arch-that-is-run": target(arch="$(x)"),
    "os-of-two-words": target(os="linux x"),
    "python-that-is-run": target(python="3.13`x`"),
    "glibc-with-newline": target(glibc="2.17\n"),
    "page-among-wheels": changed(files=files(entry("wheels/x.html"))),
    "source-among-wheels": changed(files=files(entry("WHEELS/a-1.tar.gz"))),
    "folder-among-wheels": changed(files=files(entry("wheels/a/x.whl"))),
    "wheel-elsewhere": target(wheels=["run"]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused(name):
    with refuses(BadArtifact):
        manifests.decode(HOSTILE[name])


def test_the_manifest_that_these_change_is_sound():
    assert isinstance(manifests.decode(changed()), Manifest)
    assert isinstance(manifests.decode(asked("edgellm[bundle]", "a", "A-b_c", "a[b,c-d]")), Manifest)
    plan = "--backend gguf --ctx 8192 --slots 4 --kv q8_0 --gpu-layers -1 --think --adapter a.b --adapter c"
    assert isinstance(manifests.decode(served(*plan.split(), id="hf:org/a-b.c", quant="Q4_K_M")), Manifest)


def test_a_manifest_of_a_newer_version_says_so():
    with refuses(UnsupportedArtifact):
        manifests.decode(changed(schema=2, files="of another kind"))


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def test_nothing_of_a_manifest_is_read_before_its_signature_was_right(tmp_path):
    content = HOSTILE["deep"]
    digest = f"{hashlib.sha256(content).hexdigest()}  {NAME}\n".encode()
    head = b""
    for path, data in ((NAME, content), (DIGEST, digest), (SIGNATURE, sign(content, bundles.KEY, "of another's"))):
        head += layout.opening(len(head), path, len(data)) + data + layout.closing(len(data))
    (tmp_path / "x.edgellm").write_bytes(head)

    with refuses(UntrustedBundle), reader.opened(tmp_path / "x.edgellm", KeyPair.generate().public_key):
        pass
    with refuses(BadArtifact):
        check(tmp_path / "x.edgellm")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    """Signed and whole up to where one of them stands in the place of a file."""
    path = tmp_path / "x.edgellm"
    bundles.make(path)
    with tarfile.open(path) as archive:
        at = archive.getmember("empty").offset_data - layout.BLOCK
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(link("empty", kind).tobuf(tarfile.USTAR_FORMAT))

    with refuses(BadArtifact):
        check(path)


@pytest.mark.parametrize("name", ["tar", "empty", "zeros", "text", "million"])
def test_what_is_no_bundle_is_refused(name, tmp_path):
    path = tmp_path / "x.edgellm"
    if name == "tar":
        with tarfile.open(path, "w") as archive:
            archive.addfile(link("manifest.json", tarfile.SYMTYPE))
    elif name == "million":  # a manifest that claims a million files
        rows = b",".join([b'{"path":"a","bytes":0,"sha256":"%s"}' % (b"0" * 64)] * 1_000_000)
        content = b'{"schema":1,"files":[' + rows + b"]}"
        path.write_bytes(layout.opening(0, NAME, len(content)) + content + layout.closing(len(content)) + layout.END)
    else:
        path.write_bytes({"empty": b"", "zeros": bytes(10**6), "text": b"hello\n" * 10**5}[name])

    with refuses(BadArtifact):
        check(path)


IN_LITTLE_MEMORY = f"""
import resource, sys
from pathlib import Path
from edgellm.bundle import reader
from edgellm.errors import EdgeLLMError
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {MEMORY_BYTES},) * 2)
try:
    with reader.opened(Path(sys.argv[1])) as bundle:
        reader.verify(bundle)
except EdgeLLMError as error:
    print(error.code)
else:
    print("whole")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("case", ["large", "many-hashes", "not-sound"])
def test_memory_is_bounded(case, tmp_path):
    path = tmp_path / "x.edgellm"
    if case == "large":
        with open(tmp_path / "model", "wb") as file:
            file.truncate(400 * PIECE)
        large = Content.of_file(f"{bundles.FOLDER}/toy.gguf", tmp_path / "model")
        bundles.make(path, [*bundles.contents()[:2], large])
    else:
        n_hashes = 230_000
        claimed = entry("x", bytes=n_hashes * PIECE, pieces=["0" * 64] * n_hashes)
        content = changed(files=files(claimed)) if case == "many-hashes" else b"[" * manifests.MAX_BYTES
        path.write_bytes(layout.opening(0, NAME, len(content)) + content + layout.closing(len(content)))

    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, path], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == ("whole" if case == "large" else "bad_artifact"), done.stderr
