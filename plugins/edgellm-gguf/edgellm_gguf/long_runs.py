"""Where a text is cut so that llama.cpp can split it into words.

For many vocabularies llama.cpp does that with std::regex, which goes one call deeper for each character of a match:
some 330 bytes of stack on x86-64, and 26,000 letters in a row end the process.
"""

from __future__ import annotations

import itertools
import re

# 1.3 MiB of stack. The smallest a thread may have is 2 MiB (glibc under `ulimit -s unlimited`).
MAX_RUN = 4096  # characters

# No pattern of llama.cpp's matches across these: what is no letter before a blank, and a line that begins.
_END = re.compile(r"""(?<=[0-9!-/:-@\[-`{-~])(?=\ )|(?<=\n)(?=[!-~])""", re.X)
# Nearly none does across these, which most words end with. An apostrophe may belong to the word.
_WORD_END = re.compile(
    r"""(?<=[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])
        (?=[\s!-&(-/:-@\[-`{-~\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])
        |(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])""",
    re.X,
)


def parts(text: str) -> list[str]:
    """`text` in parts, cut only where `MAX_RUN` characters follow each other without an end that is sure."""
    cuts, at = [0], 0
    while len(text) - at > MAX_RUN:
        limit = at + MAX_RUN
        # One end in each stretch is enough: a megabyte has 300,000.
        end = _END.search(text, max(at + 1, limit - 256), limit + 1) or _END.search(text, at + 1, limit + 1)
        at = end.start() if end is not None else _last_word_end(text, limit)
        if end is None:
            cuts.append(at)
    return [text[start:end] for start, end in itertools.pairwise((*cuts, len(text)))]


def _last_word_end(text: str, limit: int) -> int:
    """Behind the last word before `limit`, or there if none ends in the half of a run before it."""
    ends = _WORD_END.finditer(text, limit - MAX_RUN // 2, limit)
    return max((match.start() for match in ends), default=limit)
