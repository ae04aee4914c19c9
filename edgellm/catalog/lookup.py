"""Which models exist: the shipped rows, rows of plugins, rows of a user's own file.

`models.jsonl` holds one row per line: a diff shows the row that changed, and msgspec decodes all of them in 1 ms where
tomllib took 33 (measured cold, 118 kB), on the path of a command that has 500. A user's file may be TOML or JSON Lines.
The catalog is a prior: sizes and hashes are checked again when a file is fetched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm import tables
from edgellm.errors import UnknownModel, UsageError
from edgellm.files import package_data
from edgellm.formats.gguf.ggml_types import BY_NAME, NO_WEIGHTS
from edgellm.types.model import ModelCard, ModelFile, Shape
from edgellm.types.sampling_defaults import SamplingRow

if TYPE_CHECKING:
    import msgspec

KINDS = ("chat", "base", "embedding", "reranker")
_MOST = 1 << 44  # no count or size in a row is larger
_SHOWN = 60  # characters of an id in an error
ALIKE = 0.6  # of the letters of a name and of the beginning of an id
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ID = re.compile(r"[\w+][\w.+-]{0,119}")  # as `files.safe_name` makes names
_TAKEN = ("auto", "echo")  # they mean something else wherever a model is named
_OWN = "see docs/selection.md, Your own models"

_K = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")
# What each publisher's repositories usually have; the name of the file is looked up when it is fetched.
PUBLISHED: dict[str, tuple[str, ...]] = {
    "unsloth": (*_K, "Q4_0", "Q4_1", "IQ4_NL"),
    "bartowski": (*_K, "Q4_0", "IQ4_NL", "IQ3_M", "IQ3_XS", "IQ3_XXS", "IQ2_M"),
    "mradermacher": _K,
    "TheBloke": ("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
    "ggml-org": ("Q8_0",),
}


def catalog(extra: Iterable[ModelCard] = ()) -> dict[str, ModelCard]:
    """Id -> row. A row of `extra` replaces one of the same id.

    Raises:
        UsageError: a row of `extra` says something impossible.
    """
    rows = dict(_shipped())
    for card in extra:
        problems = check(card)
        if problems:
            raise UsageError(f"catalog row {shown(card)}: {'; '.join(problems)}", hint=_OWN)
        rows[card.id] = _with_published(card)
    return rows


def find(name: str, extra: Iterable[ModelCard] = ()) -> ModelCard:
    """The row of that id, or the only one that `name` is the beginning of; case, dots and dashes do not count.

    Of several, the only one that chats: nobody who writes a part of a name means the base model beside it.

    Raises:
        UnknownModel: none or several; the hint lists close ones.
    """
    rows = catalog(extra)
    lower = name.lower()
    if lower in rows:
        return rows[lower]
    key = _key(lower)
    begins = [row_id for row_id in rows if _key(row_id) == key]
    begins = begins or [row_id for row_id in rows if _key(row_id).startswith(key)]
    chats = [row_id for row_id in begins if rows[row_id].kind == "chat"]
    for only in (begins, chats):
        if len(only) == 1:
            return rows[only[0]]
    close = begins or _near(lower, rows)
    what = f"{name!r} could be {len(begins)} models" if begins else f"no model named {name!r} in the catalog"
    hint = f"did you mean: {', '.join(close[:8])}" if close else "list them with `edgellm models`"
    raise UnknownModel(what, hint=hint)


def _near(name: str, rows: Mapping[str, ModelCard]) -> list[str]:
    """Ids that are like it, the nearest first: those that begin like it, of these the ones that chat."""

    def likeness(row_id: str) -> float:
        begin = row_id[: len(name) + 1]  # a letter may be missing
        return difflib.SequenceMatcher(None, name, begin).ratio()

    # A long id has many letters of any name.
    near = [row for row in difflib.get_close_matches(name, rows, n=4, cutoff=0.4) if likeness(row) >= ALIKE]
    return sorted(near, key=lambda row_id: (-likeness(row_id), rows[row_id].kind != "chat"))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name)


def load_file(path: Path) -> list[ModelCard]:
    """As `placed_rows`, without the places."""
    return [card for _, card in placed_rows(path)]


def placed_rows(path: Path) -> list[tuple[tables.Place, ModelCard]]:
    """Rows of a user's file, and where each stands: TOML with `[[models]]` tables, or JSON Lines; the fields are
    `ModelCard`'s.

    Raises:
        UsageError: it cannot be read, or a row is malformed or impossible; names file, row and field.
    """
    text = tables.read_text(path, _OWN)
    if path.suffix == ".toml":
        document = tables.parse_toml(text, path, _OWN)
        for key in document.keys() - {"models"}:
            tables.Place(str(path), hint=_OWN).refuse("unknown key; a model stands under a line [[models]]", field=key)
        rows = tables.toml_rows(text, document, "models", path, _OWN)
    else:
        rows = tables.json_rows(text, path, _OWN)
    cards: dict[str, tuple[tables.Place, ModelCard]] = {}
    for place, row in rows:
        card = tables.convert(row, ModelCard, place)
        for problem in check(card):
            place.refuse(problem)
        if card.id in cards:
            place.refuse(f"{card.id!r} stands in the file twice", field="id")
        cards[card.id] = place, card
    return list(cards.values())


def shown(card: ModelCard) -> str:
    """Its id in an error."""
    return repr(card.id if len(card.id) <= _SHOWN else f"{card.id[:_SHOWN]}...")


def check(card: ModelCard) -> list[str]:
    """Everything in a row that cannot be, in words; empty = fine."""
    problems = []
    if not card.id or card.id != card.id.lower() or any(c.isspace() for c in card.id):
        problems.append("id must be lower case without spaces")
    elif _ID.fullmatch(card.id) is None:
        problems.append("id must be 120 letters, digits, _, ., + and - at most, and begin with no . or -")
    elif card.id in _TAKEN:
        problems.append(f"id {card.id} is taken: where a model is named, it means something else")
    if card.kind not in KINDS:
        problems.append(f"kind {card.kind!r} is none of {', '.join(KINDS)}")
    shortest = 0 if card.trust == "header" else 1  # a header need not tell the length; whoever writes a row can
    if not shortest <= card.ctx_train <= _MOST:
        problems.append(f"ctx_train {card.ctx_train} is not a length")
    if not 0 < card.params_active <= card.params <= _MOST:
        problems.append(f"params_active {card.params_active} of params {card.params}")
    if card.shape is not None:
        problems += _check_shape(card.shape)
    problems += [problem for i, file in enumerate(card.files) for problem in _check_file(i, file)]
    problems += [problem for i, row in enumerate(card.sampling) for problem in _check_sampling(i, row)]
    texts = (
        card.id,
        card.family,
        card.license,
        card.hf_repo,
        card.notes,
        *card.repos,
        *(r.source for r in card.sampling),
    )
    of_files = (t for f in card.files for t in (f.source, f.quant, f.trust, f.types_source, *f.types))
    if not all(text.isprintable() for text in (*texts, *of_files)):
        problems.append("text with control characters")
    return problems


def _check_file(i: int, file: ModelFile) -> Iterator[str]:
    if ":" not in file.source:
        yield f"files[{i}].source {file.source!r} has no scheme"
    for name in ("bytes", "tensor_bytes"):
        size = getattr(file, name)
        if size is not None and not 0 < size <= _MOST:
            yield f"files[{i}].{name} {size} is out of range"
    for role, kind in file.types.items():
        if kind not in BY_NAME or kind in NO_WEIGHTS:
            yield f"files[{i}].types.{role} {kind!r} is not a type of weights"
    if file.sha256 is not None and _SHA256.fullmatch(file.sha256) is None:
        yield f"files[{i}].sha256 is not 64 hexadecimal digits"


def _check_sampling(i: int, row: SamplingRow) -> Iterator[str]:
    if not row.source:
        yield f"sampling[{i}].source is empty: say where the values are from"
    try:
        _ = row.part
    except UsageError as error:
        yield f"sampling[{i}].{error.message}, {error.hint}"


def _check_shape(shape: Shape) -> list[str]:
    needed = ("n_layer", "n_embd", "n_head", "head_dim", "n_vocab")
    problems = [f"shape.{name} must be 1 or more" for name in needed if getattr(shape, name) < 1]
    for name in shape.__slots__:
        value = getattr(shape, name)
        if isinstance(value, int) and not 0 <= value <= _MOST:
            problems.append(f"shape.{name} {value} is out of range")
    if shape.n_layer > 4096:
        problems.append(f"shape.n_layer {shape.n_layer} is more than 4096")
    if shape.n_attn is not None and shape.n_attn > shape.n_layer:
        problems.append("shape.n_attn is more than n_layer")
    places = shape.full_layers
    if list(places) != sorted(set(places)) or not all(0 <= layer < shape.n_layer for layer in places):
        problems.append("shape.full_layers must be layers from 0 to n_layer - 1, each once, in order")
    if places and shape.n_attn not in (None, len(places)):
        problems.append(f"shape.full_layers are {len(places)}, and n_attn is {shape.n_attn}")
    return problems


@cache
def _decoder() -> msgspec.json.Decoder[Any]:
    import msgspec

    return msgspec.json.Decoder(ModelCard)


@cache
def _shipped() -> dict[str, ModelCard]:
    data = package_data("edgellm.catalog", "models.jsonl")
    return {card.id: _with_published(card) for card in _decoder().decode_lines(data)}


def _with_published(card: ModelCard) -> ModelCard:
    """The row with one file per quantization that its repositories usually have, after those known by name."""
    return replace(card, files=(*card.files, *_by_convention(card))) if card.repos else card


def _by_convention(card: ModelCard) -> Iterator[ModelFile]:
    quants = {file.quant for file in card.files}
    for repo in card.repos:
        for quant in PUBLISHED.get(repo.split("/")[0], ()):
            if quant not in quants:
                quants.add(quant)
                yield ModelFile(f"hf://{repo}:{quant}", quant, trust="convention")
