"""Text to tokens of an encoder, by its tokenizer.json: one text, or a query and a document together."""

from __future__ import annotations

from edgellm.contract.embedder import Pair
from edgellm.errors import BadArtifact
from edgellm.formats.tokenizer.folder import TokenizerFolder
from edgellm.formats.tokenizer.pipelines import Pipelines
from edgellm_onnx.encoder_folder import EncoderFolder


class EncoderTokenizer:
    """See `edgellm.contract.engine.Tokenizer`. A text that is encoded whole gets the folder's prompt before it."""

    def __init__(self, folder: EncoderFolder) -> None:
        self._prompt, self._lower = folder.prompt, folder.lower
        self._files = TokenizerFolder(folder.path)
        self._pipeline = self._files.pipeline()
        self._pipelines = Pipelines(self._pipeline)
        self.n_tokens = self._pipeline.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; lone surrogates become U+FFFD, and without `parse_special` no text becomes a control token.

        Raises:
            BadArtifact: the file's rules fail on this text.
        """
        whole = self._prompt + text if add_special else text
        with self._files.refusing("cannot encode this text"):
            encoding = self._pipelines.encode(self._plain(whole), add_special=add_special, parse_special=parse_special)
            return list(encoding.ids)

    def pair(self, query: str, document: str) -> Pair:
        """Both with the special tokens between and around them.

        Raises:
            BadArtifact: segments that are not first the query's and then the document's, or rules that fail.
        """
        with self._files.refusing("cannot encode this pair"):
            encoding = self._pipelines.encode(
                self._plain(query), self._plain(document), add_special=True, parse_special=False
            )
        n_first = len(encoding.ids) - sum(encoding.type_ids)
        if encoding.type_ids != [0] * n_first + [1] * (len(encoding.ids) - n_first):
            raise BadArtifact("tokenizer.json makes pairs whose segments are not 0 and then 1", hint="fetch it again")
        return Pair(tuple(encoding.ids), n_first)

    def token_bytes(self, token: int) -> bytes:
        """What the token's decoder makes of it alone; an encoder writes no text, so it is for people."""
        with self._files.refusing("cannot decode a token"):
            return self._pipeline.decode([token]).encode() if 0 <= token < self.n_tokens else b""

    def text(self, token: int) -> str:
        """The token as its file has it; an encoder writes no text, so it is for people."""
        return self._pipeline.id_to_token(token) or ""

    def pieces(self) -> tuple[list[bytes], frozenset[int]]:
        """As `token_bytes` has them; an encoder writes no text, so no answer is kept to a grammar."""
        added = self._pipeline.get_added_tokens_decoder()
        special = frozenset(token for token, extra in added.items() if extra.special)
        return [self.token_bytes(token) for token in range(self.n_tokens)], special

    def _plain(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode() if any("\ud800" <= c <= "\udfff" for c in text) else text
        return text.lower() if self._lower else text
