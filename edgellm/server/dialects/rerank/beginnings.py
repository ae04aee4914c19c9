"""The beginnings of texts that have so many tokens at most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edgellm.text.truncation import FitSearch

USUAL_LETTERS = 8  # of a token, at most
CLOSE = 64  # a beginning that lacks less than such a part of what it may have is long enough
MAX_TRIES = 16  # where tokens of very different lengths mislead; then a shorter beginning does


def beginnings(texts: list[str], most: int, count_each: Callable[[Iterable[str]], Iterator[int]]) -> tuple[str, ...]:
    """Each text up to where it has `most` tokens or a little fewer, and at least one letter of it.

    A beginning is a part of the text as it was sent: tokens that are made text again may lack the blanks between words.

    Args:
        count_each: tokens of each of the texts. It is asked for all that are still searched together, in few rounds.
    """
    n_letters = [min(len(text), USUAL_LETTERS * most) for text in texts]

    def count(places: Iterable[int]) -> Iterator[tuple[int, int]]:
        places = list(places)
        return zip(places, count_each(texts[at][: n_letters[at]] for at in places), strict=True)

    n_tokens = dict(count(range(len(texts))))
    longer = [at for at, n in n_tokens.items() if n <= most and n_letters[at] < len(texts[at])]
    for at in longer:
        n_letters[at] = len(texts[at])
    n_tokens.update(count(longer))

    searches = {at: FitSearch(n_letters[at], most, n) for at, n in n_tokens.items() if n > most}
    open_ = {at: search for at, search in searches.items() if search.goes_on}
    while open_:
        for at, search in open_.items():
            n_letters[at] = search.kept
        for at, n in count(open_):
            open_[at].note(n)
            is_close = most - most // CLOSE <= n <= most
            is_late = open_[at].n_tries >= MAX_TRIES and open_[at].most_kept > 0
            if is_close or is_late or not open_[at].goes_on:
                del open_[at]
    for at, search in searches.items():
        n_letters[at] = max(search.most_kept, 1)
    return tuple(text[:n] for text, n in zip(texts, n_letters, strict=True))
