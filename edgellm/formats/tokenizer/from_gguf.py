"""The tokenizer in a GGUF file's metadata. The file is not trusted: contradictions are refused with the key's name.

Where llama.cpp guesses (a file that names no pre-tokenizer), this does not: a wrong guess makes a model worse, and
nothing shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgellm.errors import BackendUnavailable, UnsupportedArtifact, UsageError
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufHeader
from edgellm.formats.tokenizer import pipelines
from edgellm.formats.tokenizer.keys import Entries, TokenizerKeys
from edgellm.formats.tokenizer.kinds import TokenKind, end_tokens
from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer, recognise
from edgellm.formats.tokenizer.sentencepiece import SentencePiece
from edgellm.formats.tokenizer.special import splitter
from edgellm.formats.tokenizer.tokenizer import BYTE_OF, FileTokenizer, Vocabulary, byte_level, spaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

# What SentencePiece gives these where the file does not say.
SPM_ROLES = {"bos": 1, "eos": 2, "unk": 0}

_SPELLINGS = {"gpt2": byte_level, "llama": spaced}  # by the kind of vocabulary

# Never in a text whose bytes are spelled as letters.
_LEFT_OUT = " "


def read_tokenizer(header: GgufHeader, *, pre: str | None = None) -> FileTokenizer:
    """The model's tokenizer; `pre` names the pre-tokenizer in place of the file. For a worker: it imports a library.

    Raises:
        BadArtifact: the metadata contradict themselves; names the key.
        UnsupportedArtifact: no vocabulary, or of a kind not known here.
        BackendUnavailable: the `tokenizers` library is not installed.
    """
    keys = TokenizerKeys(header)
    if _model(keys) == "llama":
        return _sentence_piece(keys, keys.entries(SPM_ROLES))
    return _byte_level(keys, keys.entries({}), pre)


def read_vocabulary(header: GgufHeader) -> Vocabulary:
    """What its tokens are as text. Imports no library, and needs none.

    Raises:
        BadArtifact, UnsupportedArtifact: as `read_tokenizer`.
    """
    keys = TokenizerKeys(header)
    spell, texts = _SPELLINGS[_model(keys)], keys.tokens()
    return Vocabulary(texts, keys.kinds(texts), spell)


def _model(keys: TokenizerKeys) -> str:
    """
    Raises:
        UnsupportedArtifact: it is none of `_SPELLINGS`.
    """
    header, model = keys.header, keys.text("model")
    if model in (None, "no_vocab", "none"):
        raise UnsupportedArtifact(
            f"{header.where} has no vocabulary (tokenizer.ggml.model is {model})",
            hint="fetch a file of the model that has one, or convert it with its tokenizer",
        )
    if model not in _SPELLINGS:
        raise UnsupportedArtifact(
            f"{header.where}: tokenizer.ggml.model is {model[:40]!r}; gpt2 and llama are known",
            hint="use a backend that knows it, or the model in another format",
        )
    return model


def _byte_level(keys: TokenizerKeys, entries: Entries, pre: str | None) -> FileTokenizer:
    words = pre_tokenizer(keys, entries.ids, pre)
    # The library never sees control tokens, so that no text of a user can become one.
    ids = _text_tokens(entries, TokenKind.CONTROL, TokenKind.UNKNOWN)
    # Bytes without a token are left out. They need an id of their own until then, or their neighbours would join.
    left_out = len(entries.texts)
    whole = ids.keys() >= BYTE_OF.keys()
    if not whole:
        ids[_LEFT_OUT] = left_out
    pipeline = _pipeline(keys, ids, words)

    def encode_text(text: str) -> list[int]:
        try:
            tokens: list[int] = pipelines.encode(pipeline, text, add_special=False).ids
        except BaseException as error:
            if not _is_of_library(error):
                raise
            # Ten million spaces exhaust the library's expressions.
            raise UsageError(f"a text of {len(text)} characters cannot be split: {error}", hint="shorten it") from None
        return tokens if whole else [token for token in tokens if token != left_out]

    return _tokenizer(keys, entries, encode_text, spell=byte_level, add_bos=words.add_bos)


def _sentence_piece(keys: TokenizerKeys, entries: Entries) -> FileTokenizer:
    scores = keys.scores()
    ids = _text_tokens(entries, TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.BYTE)
    model = SentencePiece(
        ids,
        {text: scores[token] for text, token in ids.items()},
        {int(text[3:5], 16): token for text, token in entries.ids.items() if entries.kinds[token] == TokenKind.BYTE},
        unk_id=entries.roles.get("unk"),
        space_prefix=keys.flag("add_space_prefix", default=True),
    )
    return _tokenizer(keys, entries, model.encode, spell=spaced, add_bos=True)


def _text_tokens(entries: Entries, *hidden: TokenKind) -> dict[str, int]:
    """Ids of tokens that a user's text may become."""
    kinds = entries.kinds
    return {text: token for text, token in entries.ids.items() if kinds[token] not in hidden}


def _tokenizer(
    keys: TokenizerKeys,
    entries: Entries,
    encode_text: Callable[[str], list[int]],
    *,
    spell: Callable[[str], bytes],
    add_bos: bool,
) -> FileTokenizer:
    roles = entries.roles
    added: dict[str, tuple[int, ...]] = {}
    for role, default in (("bos", add_bos), ("eos", False)):
        is_added = keys.flag(f"add_{role}_token", default=default)
        if is_added and role not in roles:
            keys.fail(f"{role}_token_id", f"is missing, and the model wants that token (add_{role}_token)")
        added[role] = (roles[role],) if is_added else ()
    eos_ids = end_tokens(entries.ids, entries.kinds, roles)
    return FileTokenizer(
        Vocabulary(entries.texts, entries.kinds, spell),
        splitter(entries.ids, entries.kinds, encode_text),
        bos_id=roles.get("bos"),
        eos_id=roles.get("eos"),
        eos_ids=eos_ids,
        prefix=added["bos"],
        suffix=added["eos"],
        chat_template=reader.chat_template(keys.header),
    )


def pre_tokenizer(keys: TokenizerKeys, ids: Mapping[str, int], pre: str | None) -> PreTokenizer:
    name = pre or keys.text("pre") or recognise(ids)
    if name is None:
        raise UnsupportedArtifact(
            f"{keys.header.where} does not say how its tokenizer cuts words (tokenizer.ggml.pre), and its vocabulary "
            "is not a known one",
            hint="convert the model again with a current converter",
        )
    if name not in PRE_TOKENIZERS:
        raise UnsupportedArtifact(
            f"{keys.header.where}: tokenizer.ggml.pre is {name[:40]!r}, which is not known here",
            hint=f"known are {', '.join(sorted(PRE_TOKENIZERS))}",
        )
    return PRE_TOKENIZERS[name]


def _is_of_library(error: BaseException) -> bool:
    """The library's panics are no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _pipeline(keys: TokenizerKeys, ids: dict[str, int], words: PreTokenizer) -> Pipeline:
    """A pipeline of the library, without special tokens."""
    try:
        from tokenizers import Regex, models, pre_tokenizers
        from tokenizers import Tokenizer as Pipeline
    except ImportError as error:
        raise BackendUnavailable("the tokenizers library is not installed", hint="pip install tokenizers") from error
    unknown = _LEFT_OUT if _LEFT_OUT in ids else None
    merges = keys.merges()
    try:
        model = models.BPE(ids, merges, ignore_merges=words.ignore_merges, unk_token=unknown)
    except BaseException as error:
        if not _is_of_library(error):
            raise
        keys.fail("merges", f"do not fit the tokens: {error}")
    pipeline = Pipeline(model)
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in words.patterns]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*cuts, letters])
    return pipeline
