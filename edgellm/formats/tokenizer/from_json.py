"""The tokenizer of a Hugging Face folder: tokenizer.json and the small files beside it.

The `tokenizers` library runs it as its author wrote it. What the library does not tell is read here: which tokens are
control tokens, which of them end an answer, how tokens are spelled, and the chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.errors import UnsupportedArtifact
from edgellm.formats.tokenizer.folder import TokenizerFolder
from edgellm.formats.tokenizer.kinds import END_NAMES, TokenKind
from edgellm.formats.tokenizer.pipelines import Pipelines
from edgellm.formats.tokenizer.tokenizer import FileTokenizer, Vocabulary, byte_level, spaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

MAX_TOKENS = 4_000_000
_PROBE = "a"


def read_tokenizer_json(folder: str | Path) -> FileTokenizer:
    """The tokenizer of the model in `folder`. For a worker: it imports a library.

    Raises:
        BadArtifact: a file is malformed, or they contradict each other; names the file and the key.
        UnsupportedArtifact: there is no tokenizer.json, or it spells tokens in a way not known here.
        BackendUnavailable: the `tokenizers` library is not installed.
    """
    files = TokenizerFolder(folder)
    pipeline = files.pipeline()
    vocabulary, ids = _vocabulary(files, pipeline)
    config = files.json("tokenizer_config.json")
    roles = {role: _named(files, config, role, ids) for role in ("bos", "eos")}
    with files.refusing("cannot encode a letter"):
        added = _added(pipeline)
    for position, role in enumerate(("bos", "eos")):
        is_added = config.get(f"add_{role}_token")
        token = roles[role]
        if isinstance(is_added, bool):
            if is_added and token is None:
                files.fail("tokenizer_config.json", f"add_{role}_token", f"is true, but there is no {role}_token")
            added[position] = (token,) if is_added and token is not None else ()
    return FileTokenizer(
        vocabulary,
        _Split(files, pipeline),
        bos_id=roles["bos"],
        eos_id=roles["eos"],
        eos_ids=_end_tokens(files, vocabulary, ids, roles["eos"]),
        prefix=added[0],
        suffix=added[1],
        chat_template=files.chat_template(config),
        response_template=files.response_template(config),
    )


class _Split:
    """(text, parse_special) -> ids, with the pipeline's own special tokens."""

    def __init__(self, files: TokenizerFolder, pipeline: Pipeline) -> None:
        self._files = files
        self._pipelines = Pipelines(pipeline)
        self._control = {token for token, added in pipeline.get_added_tokens_decoder().items() if added.special}

    def __call__(self, text: str, parse_special: bool) -> list[int]:
        tokens = self._encode(text, parse_special)
        if parse_special or self._control.isdisjoint(tokens):
            return tokens
        # A vocabulary that holds control tokens may reach one by its own rules: that one goes letter by letter.
        return [part for token in tokens for part in (self._letters(token) if token in self._control else [token])]

    def _encode(self, text: str, parse_special: bool) -> list[int]:
        with self._files.refusing("cannot encode this text"):
            return list(self._pipelines.encode(text, add_special=False, parse_special=parse_special).ids)

    def _letters(self, token: int) -> list[int]:
        text = self._pipelines.whole.id_to_token(token) or ""
        return [part for char in text for part in self._encode(char, False) if part not in self._control]


def _vocabulary(files: TokenizerFolder, pipeline: Pipeline) -> tuple[Vocabulary, dict[str, int]]:
    ids = pipeline.get_vocab(with_added_tokens=True)
    if not ids:
        files.fail("tokenizer.json", "model.vocab", "is empty")
    n_tokens = max(ids.values()) + 1
    if n_tokens > MAX_TOKENS:
        files.fail("tokenizer.json", "model.vocab", f"has id {n_tokens - 1}, {MAX_TOKENS} tokens are allowed")
    texts = [""] * n_tokens
    for text, token in ids.items():
        if texts[token]:
            files.fail("tokenizer.json", "model.vocab", f"gives id {token} to {texts[token]!r} and to {text[:40]!r}")
        texts[token] = text
    types = _types(json.loads(pipeline.decoder.__getstate__()) if pipeline.decoder is not None else None)
    spell = byte_level if "ByteLevel" in types else spaced
    if not types & {"ByteLevel", "ByteFallback", "Metaspace"}:
        raise UnsupportedArtifact(
            f"{files.path}/tokenizer.json: decoder {sorted(types)} is not known here",
            hint="ByteLevel, ByteFallback and Metaspace are",
        )
    kinds = [TokenKind.NORMAL if text else TokenKind.UNUSED for text in texts]
    if "ByteFallback" in types:
        for name in {f"<0x{byte:02X}>" for byte in range(256)} & ids.keys():
            kinds[ids[name]] = TokenKind.BYTE
    for token, extra in pipeline.get_added_tokens_decoder().items():
        kinds[token] = TokenKind.CONTROL if extra.special else TokenKind.USER_DEFINED
    return Vocabulary(texts, kinds, spell), ids


def _types(state: Any) -> set[str]:
    """Types of a component and of those inside it."""
    if isinstance(state, list):
        return set().union(*map(_types, state))
    if not isinstance(state, dict):
        return set()
    own = {state["type"]} if isinstance(state.get("type"), str) else set()
    return own | set().union(*map(_types, state.values()))


def _added(pipeline: Pipeline) -> list[tuple[int, ...]]:
    """[tokens before, tokens after] that the pipeline's own template puts around a text."""
    bare = pipeline.encode(_PROBE, add_special_tokens=False).ids
    full = pipeline.encode(_PROBE, add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return [tuple(full[:start]), tuple(full[start + len(bare) :])]
    return [(), ()]


def _named(files: TokenizerFolder, config: dict[str, Any], role: str, ids: dict[str, int]) -> int | None:
    """Id of bos_token or eos_token, which is a text or an object with `content`."""
    value = config.get(f"{role}_token")
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    if not isinstance(text, str) or text not in ids:
        files.fail("tokenizer_config.json", f"{role}_token", f"is {str(text)[:40]!r}, which is not a token")
    return ids[text]


def _end_tokens(
    files: TokenizerFolder, vocabulary: Vocabulary, ids: dict[str, int], eos_id: int | None
) -> frozenset[int]:
    """generation_config.json's, the tokenizer's own, and control tokens whose name says so."""
    value = files.json("generation_config.json").get("eos_token_id", [])
    ends = value if isinstance(value, list) else [value]
    n_tokens = len(vocabulary.texts)
    for token in ends:
        if type(token) is not int or not 0 <= token < n_tokens:
            files.fail(
                "generation_config.json", "eos_token_id", f"is {str(token)[:40]}, tokens are 0 to {n_tokens - 1}"
            )
    by_name = {ids[name] for name in END_NAMES & ids.keys() if vocabulary.kinds[ids[name]] == TokenKind.CONTROL}
    return frozenset(ends) | by_name | ({eos_id} if eos_id is not None else set())
