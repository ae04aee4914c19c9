"""Which files a repository of the hub has, as the hub lists them: pages of JSON, each with the address of the next.

huggingface_hub's own list reads what comes without a bound, page after page. Its token and errors are used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from edgellm.errors import SourceError, SourceUnreachable
from edgellm.store import http
from edgellm.store.address import redacted
from edgellm.store.sources import hub_request

MAX_BYTES = 64 * 1024**2  # of all pages: some 200,000 files
MAX_PAGES = 1000
PATIENCE_S = 120.0  # for all pages, and however often they are asked for
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HINT = "is HF_ENDPOINT right? Its server is broken, or not to be trusted"


class _Lfs(msgspec.Struct):
    oid: str


class ListedFile(msgspec.Struct):
    """A file or a folder of a repository."""

    type: str
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    size: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    lfs: _Lfs | None = None

    @property
    def sha256(self) -> str:
        """ "" of a small file, and where what is stated is none."""
        oid = self.lfs.oid.lower() if self.lfs else ""
        return oid if _SHA256.fullmatch(oid) else ""

    @property
    def is_usable(self) -> bool:
        """Whether it is a file, of a name that cannot lead out of a folder."""
        is_inside = not self.path.startswith("/") and ".." not in self.path.split("/")
        return self.type == "file" and is_inside and self.path.isprintable()


class Listing:
    """The pages of `repo` at `revision` ("" = main). `headers` may hold a token."""

    def __init__(self, repo: str, revision: str, headers: Mapping[str, str]) -> None:
        from huggingface_hub import constants

        self._endpoint = constants.ENDPOINT
        self._first = f"{self._endpoint}/api/models/{repo}/tree/{quote(revision or 'main', safe='')}?recursive=true"
        self._next = ""
        self._headers = headers
        self._what = f"the list of files of {repo}"
        self._n_bytes = self._n_pages = 0
        self._due = time.monotonic() + PATIENCE_S

    def files(self) -> list[ListedFile]:
        """From the first page to the last.

        Raises:
            SourceError: it is none, is too long, or goes on at another server. SourceUnreachable: it comes too slowly.
            huggingface_hub's errors: the hub refuses.
        """
        files: dict[str, ListedFile] = {}
        self._next = self._first
        while self._next:
            for file in filter(lambda file: file.is_usable, self._page()):
                if file.path in files:
                    raise SourceError(f"{self._what} has {file.path[:200]!r} twice", hint=_HINT)
                files[file.path] = file
        return list(files.values())

    def _page(self) -> list[ListedFile]:
        from huggingface_hub import hf_raise_for_status

        if self._n_pages == MAX_PAGES:
            raise SourceError(f"{self._what} has more than {MAX_PAGES} pages", hint=_HINT)
        self._n_pages += 1
        timeout_s = min(http.TIMEOUT_S, self._left_s())
        with http.request(
            "GET", self._next, self._headers, timeout_s=timeout_s, is_followed=lambda to: False
        ) as response:
            content = self._received(response)
        page = hub_request.answer_of(response, content)
        if page.has_redirect_location:  # of a repository that was renamed
            self._next = self._here(urljoin(self._next, page.headers["Location"]))
            return []
        hf_raise_for_status(page)
        self._next = self._here(page.links.get("next", {}).get("url", ""))
        try:
            return msgspec.json.decode(page.content, type=list[ListedFile])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError(f"{self._what} is not as the hub writes it: {error}", hint=_HINT) from error

    def _here(self, address: str) -> str:
        """The address of what comes next, "" = nothing. The token goes along, and others must not be asked for us.

        Raises:
            SourceError: it is another server's.
        """
        if address and urlsplit(address)[:2] != urlsplit(self._endpoint)[:2]:
            where = redacted(address)
            raise SourceError(f"{self._what} goes on at {where}, which is another server", hint=_HINT)
        return address

    def _received(self, response: http.Response) -> bytes:
        """The whole page."""
        content = bytearray()
        for piece in response.whole(self._left_s()):
            content += piece
            self._n_bytes += len(piece)
            if self._n_bytes > MAX_BYTES:
                raise SourceError(f"{self._what} has more than {MAX_BYTES} bytes", hint=_HINT)
        return bytes(content)

    def _left_s(self) -> float:
        """Seconds. Raises: SourceUnreachable."""
        left_s = self._due - time.monotonic()
        if left_s <= 0:
            what = f"{self._what} was not there after {PATIENCE_S:.0f} s"
            raise SourceUnreachable(what, hint="check the network, or try again later")
        return left_s
