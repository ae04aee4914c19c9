"""`edgellm client-config`: the few lines that point a program at the server on this machine."""

from __future__ import annotations

import http.client
from pathlib import Path
from string import Template

import click
import msgspec

from edgellm.cli.page import examples, say

CLIENTS = ("aider", "claude-code", "cline", "codex", "continue", "llm", "open-webui", "zed")
TEXTS = Path(__file__).parent / "clients"
URL = "http://127.0.0.1:8642"
MODEL = "edgellm"  # means whatever is served
CTX = 8192  # where no server says how long its context is
NO_KEY = "none"  # clients want one even where the server does not
MOST_BYTES = 1024**2  # of a plan


@click.command(epilog=examples("edgellm client-config codex", "edgellm client-config zed --url http://127.0.0.1:9000"))
@click.argument("client", type=click.Choice(CLIENTS))
@click.option("--url", default=URL, show_default=True, help="Where `edgellm serve` listens.")
@click.option("--model", default=MODEL, show_default=True, help="The name to ask for; edgellm means what is served.")
@click.option("--ctx", type=click.IntRange(1), help="Length of the context; asked of the server where it runs.")
def command(*, client: str, url: str, model: str, ctx: int | None) -> None:
    """Write the lines that make a program use `edgellm serve`.

    CLIENT is the program. The lines hold the API key only as the variable EDGELLM_API_KEY has it.
    """
    from edgellm import settings

    url = url.rstrip("/").removesuffix("/v1")
    key = settings.current().api_key
    if ctx is None:
        ctx = _context(url, key)
    if ctx is None:
        ctx = CTX
        say(f"No server answers at {url}: {CTX} stands for the length of its context; --ctx says another.", err=True)
    values = {"url": url, "model": model, "key": "$EDGELLM_API_KEY" if key else NO_KEY, "ctx": str(ctx)}
    text = Template((TEXTS / f"{client}.txt").read_text(encoding="utf-8"))
    click.echo(text.substitute(values), nl=False)


def _context(url: str, key: str | None) -> int | None:
    """Tokens of the context of the server that runs there; None where none says."""
    import urllib.request

    request = urllib.request.Request(f"{url}/edgellm/plan")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2) as response:
            plan = msgspec.json.decode(response.read(MOST_BYTES), type=_Plan)
    except (OSError, ValueError, http.client.HTTPException, msgspec.MsgspecError):
        return None
    return plan.settings.n_ctx


class _Settings(msgspec.Struct):
    n_ctx: int


class _Plan(msgspec.Struct):
    settings: _Settings
