"""`edgellm client-config`: the few lines that point a program at the server on this machine."""

from __future__ import annotations

import difflib
import http.client
from http import HTTPStatus
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgellm.cli.page import examples, say
from edgellm.cli.words import WholeNumber
from edgellm.errors import UsageError

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:  # generic since click 8.2
    _Choice = click.Choice

CLIENTS = ("aider", "claude-code", "cline", "codex", "continue", "llm", "open-webui", "zed")
VS_CODE = ("vscode", "vs-code", "code", "vscodium")
TEXTS = Path(__file__).parent / "clients"
URL = "http://127.0.0.1:8642"
MODEL = "edgellm"  # means whatever is served
CTX = 8192  # where no server says how long its context is
MOST_OUTPUT = 8192  # tokens of an answer, for which a client keeps room; no more than a quarter of the context
NO_KEY = "none"  # clients want one even where the server does not
# Tokens of the first prompt of programs that send long ones (docs/http-anthropic.md, docs/http-responses.md).
FIRST_PROMPTS = {"claude-code": 12_000, "codex": 7_000}
ROOMY = 32768  # tokens of context with which these work
MOST_BYTES = 1024**2  # of an answer


class _Client(_Choice):
    """One of CLIENTS; what is near to one is answered with it."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.lower() in VS_CODE:
            self.fail(f"for {value!r} itself there are no lines, but for what runs in it: continue, cline", param, ctx)
        near = [name for name in CLIENTS if value and name.startswith(value.lower())]
        near = near or difflib.get_close_matches(value.lower(), CLIENTS, n=1)
        if near and value != near[0]:
            self.fail(f"there are no lines for {value!r}; did you mean {near[0]}?", param, ctx)
        return super().convert(value, param, ctx)


@click.command(epilog=examples("edgellm client-config codex", "edgellm client-config zed --url http://127.0.0.1:9000"))
@click.argument("client", type=_Client(CLIENTS), metavar="CLIENT")
@click.option("--url", default=URL, show_default=True, help="Where `edgellm serve` listens.")
@click.option("--model", default=MODEL, show_default=True, help="The name to ask for; edgellm means what is served.")
@click.option("--ctx", type=WholeNumber(1), help="Length of the context; asked of the server where it runs.")
def command(*, client: str, url: str, model: str, ctx: int | None) -> None:
    """Write the lines that make a program use `edgellm serve`.

    CLIENT is the program: aider, claude-code, cline, codex, continue, llm, open-webui or zed. The lines hold the
    API key only as the variable EDGELLM_API_KEY has it.
    """
    from edgellm import settings

    url = _root(url)
    server = _Server(url, settings.current().api_key)
    if ctx is None:
        ctx = server.n_ctx()
    if ctx is None:
        ctx = CTX
        say(f"{server.silence}: {CTX} stands for the length of its context; --ctx says another.", err=True)
    if model != MODEL and (names := server.names_beside(model)):
        say(f"{model!r} is not served at {url}; it serves {', '.join(map(repr, names))}.", err=True)
    key, output = "$EDGELLM_API_KEY" if server.key else NO_KEY, min(MOST_OUTPUT, ctx // 4)
    if ctx - output < FIRST_PROMPTS.get(client, 0):
        say(
            f"A context of {ctx:,} tokens is too short for {client}, whose first prompt alone takes about "
            f"{FIRST_PROMPTS[client]:,}: serve with --ctx {ROOMY} or more, where the model was trained for as much.",
            err=True,
        )
    values = {"url": url, "model": model, "key": key, "ctx": str(ctx), "output": str(output)}
    text = Template((TEXTS / f"{client}.txt").read_text(encoding="utf-8"))
    click.echo(text.substitute(values), nl=False)


def _root(url: str) -> str:
    """The address without what clients put behind it; `host:port` is one without its scheme.

    Raises:
        UsageError: it is none.
    """
    from urllib.parse import urlsplit

    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        # A lone word is rather a mistake than a host.
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or whole == url)
    except ValueError:
        is_address = False
    if not is_address or any(char in url for char in "?#\"'\\ ") or not url.isprintable():
        raise UsageError(f"--url {url[:80]!r} is no address", hint=f"write it as {URL}", param="url")
    return whole.rstrip("/").removesuffix("/v1")


class _Server:
    """What listens there, where something does. `silence`: why it tells nothing."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key = url, key
        self.silence = f"No server answers at {url}"

    def n_ctx(self) -> int | None:
        """Tokens of its context; None where it does not tell."""
        plan = self._get("/edgellm/plan", _Plan)
        return None if plan is None else plan.settings.n_ctx

    def names_beside(self, name: str) -> list[str]:
        """The names of what it serves, where `name` is none of them."""
        from urllib.parse import quote

        models = self._get("/v1/models", _Models)
        # It may take names that it does not list.
        if models is None or self._get(f"/v1/models/{quote(name)}", _Model) is not None:
            return []
        return [model.id for model in models.data]

    def _get(self, path: str, kind: type[Any]) -> Any:
        import urllib.error

        try:
            return self._asked(path, kind)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                return None
        if not self.key:
            self.silence = f"The server at {self.url} asks for a key; set EDGELLM_API_KEY"
            return None
        if not self._may_have_key():
            self.silence = (
                f"What listens at {self.url} asks for a key, and is not known to be this user's or root's: "
                "it was not sent EDGELLM_API_KEY"
            )
            return None
        try:
            return self._asked(path, kind, self.key)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.UNAUTHORIZED:
                self.silence = f"The server at {self.url} asks for another key; check EDGELLM_API_KEY"
        return None

    def _may_have_key(self) -> bool:
        """On this machine any user may listen where the server is down. Another machine was named on purpose."""
        from urllib.parse import urlsplit

        from edgellm.server import listener
        from edgellm.store.address import is_loopback

        parts = urlsplit(self.url)
        if not is_loopback((parts.hostname or "").lower()):
            return True
        return listener.is_of_this_user(parts.port or (443 if parts.scheme == "https" else 80))

    def _asked(self, path: str, kind: type[Any], key: str = "") -> Any:
        """None where it answers something else, or nothing.

        Raises:
            HTTPError: it answers with an error.
        """
        import urllib.error
        import urllib.request

        try:
            request = urllib.request.Request(self.url + path)
            if key:
                request.add_unredirected_header("Authorization", f"Bearer {key}")
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as response:
                return msgspec.json.decode(response.read(MOST_BYTES), type=kind)
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError, RecursionError, http.client.HTTPException):
            return None


class _Settings(msgspec.Struct):
    n_ctx: int


class _Plan(msgspec.Struct):
    settings: _Settings


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]
