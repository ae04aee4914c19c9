"""A Hugging Face tokenizer for several threads: while one reads a long text, the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Pipeline


class Pipelines:
    """Two that share their vocabulary: one reads special tokens in a text, the other reads them as text.

    The library has one with a switch. While a thread encodes, another that moves the switch stands still, and with it
    all of Python.
    """

    def __init__(self, whole: Pipeline) -> None:
        self.whole = whole
        self._plain = _twin(whole)
        self._plain.encode_special_tokens = True

    def encode(self, text: str, second: str | None = None, *, add_special: bool, parse_special: bool) -> Encoding:
        """A text, or two as a pair. Raises what the library raises."""
        return encode(self.whole if parse_special else self._plain, text, second, add_special=add_special)


def encode(pipeline: Pipeline, text: str, second: str | None = None, *, add_special: bool) -> Encoding:
    """A text, or two as a pair, without Python's lock. Raises what the library raises."""
    # The library's own `encode` keeps the lock.
    given = text if second is None else (text, second)
    return pipeline.encode_batch([given], add_special_tokens=add_special)[0]


def _twin(whole: Pipeline) -> Pipeline:
    """The same rules and vocabulary, which takes no memory again."""
    from tokenizers import Tokenizer as Pipeline

    twin = Pipeline(whole.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (rule := getattr(whole, part)) is not None:
            setattr(twin, part, rule)
    added = whole.get_added_tokens_decoder()
    twin.add_tokens([added[token] for token in sorted(added)])
    return twin
