"""`edgellm cluster`: several machines that answer together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm import settings
from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import BACKEND, MODEL, QUANT, TASK, TOKENS, WholeNumber
from edgellm.errors import UsageError
from edgellm.units import counted, show_memory, show_rate
from edgellm_ray import proxy, ray_library, raylet
from edgellm_ray.services import HOST, PORT
from edgellm_ray.token import take_token, token_file

if TYPE_CHECKING:
    from edgellm_ray.board import Row
    from edgellm_ray.state import BoxReport

SCHEMA = 1

address = click.option(
    "--address", metavar="HOST:PORT", help="Head of the cluster, if not that which this machine is in."
)


@click.group(
    name="cluster",
    epilog=examples(
        "edgellm cluster up --host 192.168.1.10",
        "edgellm cluster join 192.168.1.10:6379 --token-file ./token",
        "edgellm cluster serve qwen3-4b",
        "edgellm cluster serve qwen3-embedding-0.6b",
        "edgellm cluster serve qwen3-8b --as qwen3-4b",
        "edgellm cluster status",
    ),
)
def command() -> None:
    """Answer on several machines together, by Ray Serve."""


@command.command("up")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of this machine by which others join.")
@click.option("--port", type=WholeNumber(1, 65535), default=raylet.PORT, show_default=True)
def up(*, host: str, port: int) -> None:
    """Start a cluster whose head is this machine."""
    raylet.start_head(host, port)
    say(f"The cluster is up at {host}:{port}, and this machine is its first box.")
    say(f"Others join with the token in {token_file()}, which lets its owner run programs on all of them:")
    say(f"edgellm cluster join {host}:{port} --token-file TOKEN", lead="  ")


@command.command("join")
@click.argument("head", metavar="HOST:PORT")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Copy of the head's token.")
def join(*, head: str, token_file: Path | None) -> None:
    """Make this machine a box of the cluster with that head."""
    if token_file is not None:
        take_token(token_file)
    raylet.join(head)
    say(f"This machine is a box of the cluster at {head}.")


@command.command("serve")
@click.argument("models", nargs=-1, type=MODEL, metavar="[MODEL]...")
@click.option(
    "--as", "name", metavar="NAME", help="Name to serve it by, in the place of what has that name; if not MODEL."
)
@click.option("--task", type=TASK, help="What the model is for (default: chat).")
@click.option("--ctx", type=TOKENS, metavar="TOKENS", help="Context per slot that it must hold, as 8192 or 32k.")
@click.option("--min-tps", type=float, metavar="RATE", help="Slowest acceptable rate, tokens per second.")
@click.option("--max-memory", metavar="SIZE", help="Most memory that it may take on a box, as 700MiB or 2GiB.")
@click.option("--max-download", metavar="SIZE", help="Largest file that a box may fetch.")
@click.option("--backend", type=BACKEND, help="Only this backend.")
@click.option("--quant", type=QUANT, metavar="NAME", help="The quantization of MODEL, such as Q4_K_M.")
@click.option("--slots", default="auto", show_default=True, metavar="N|auto", help="Conversations at a time on a box.")
@click.option("--threads", type=int, metavar="N", help="Threads to compute with on each box.")
@click.option("--offline", is_flag=True, help="Only what is on the disk of each box already.")
@click.option("--replicas", default="boxes", show_default=True, metavar="boxes|N|MIN:MAX", help="boxes: one on each.")
@click.option("--queue", type=WholeNumber(1, 100_000), default=64, show_default=True, help="Requests that may wait.")
@click.option(
    "--golden", type=click.Path(path_type=Path), metavar="FILE", help="Prompts that a fresh model must answer."
)
@click.option("--min-speed", type=click.FloatRange(0, 1), default=0.25, show_default=True, metavar="FRACTION",
              help="Of the predicted rate, that a fresh model must reach; 0: not measured.")  # fmt: skip
@click.option("--host", help=f"Address to listen on, {HOST} at first; others need an API key.")
@click.option("--port", type=WholeNumber(1, 65535), help=f"{PORT} at first.")
@click.option(
    "--proxy-port",
    type=WholeNumber(1, 65535),
    help=f"Of Ray's proxy, on the head's loopback address; {proxy.PORT} at first.",
)
@click.option("--public-name", metavar="NAME", help="Name by which clients reach the cluster, if not --host.")
@click.option("--api-key", metavar="KEY", help="Ask for this key; better EDGELLM_API_KEY.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=auto", help="Answer to this name, too (repeat).")
@click.option("--any-model", is_flag=True, help="Answer to every name of a model.")
@address
def serve(
    *,
    models: tuple[str, ...],
    name: str | None,
    replicas: str,
    queue: int,
    golden: Path | None,
    min_speed: float,
    host: str | None,
    port: int | None,
    proxy_port: int | None,
    public_name: str | None,
    api_key: str | None,
    aliases: tuple[str, ...],
    any_model: bool,
    address: str | None,
    **options: Any,
) -> None:
    """Serve a model on the boxes of the cluster, beside those that are served, or change one of them.

    Each box plans for itself; without MODEL, or with "auto", each chooses the best that it runs well. Further models
    go to the boxes that have room for them. Returns when the cluster answers.
    """
    from edgellm.types.options import LaunchOptions
    from edgellm_ray import golden_file, services
    from edgellm_ray.config import ModelConfig
    from edgellm_ray.scaling import Replicas

    if name and len(models) > 1:
        raise UsageError(f"--as {name} names one model, not {len(models)}", hint="serve one by one", param="name")
    asked = LaunchOptions.of(**options)
    _ = asked.request()  # a wrong value is told here, and not by a replica
    prompts = golden_file.read(golden) if golden else ()
    wanted = [
        ModelConfig(
            name=name or model, model=None if model == "auto" else model, options=asked, golden=prompts,
            min_speed=min_speed,
        )
        for model in dict.fromkeys(models or ("auto",))
    ]  # fmt: skip
    where = services.Where(host, port, proxy_port, public_name, api_key or settings.current().api_key)
    with ray_library.connected(address or raylet.address()):
        config = services.serve(
            wanted, where, replicas=Replicas.of(replicas), queue=queue, aliases=aliases, any_model=any_model,
            tell=lambda text: say(text, err=True),
        )  # fmt: skip
    url = f"http://{config.host}:{config.port}"
    say(f"Open {url} (API: {url}/v1)")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@address
def status(*, as_json: bool, address: str | None) -> None:
    """Show the boxes, what runs on each and why, and how busy it is."""
    from edgellm_ray import state

    with ray_library.connected(address or raylet.address()):
        report = state.report()
    if as_json:
        say_json({"schema": SCHEMA, **report.plain()})
        return
    if not report.services:
        say(report.deployment, bold=True)
    for service in report.services:
        say(f"{service.name}: {service.state}{f': {service.problem}' if service.problem else ''}", bold=True)
    for box in report.boxes:
        say(f"{box.name}  {box.ip}  {_memory(box) if box.alive else 'gone'}".rstrip(), bold=True)
        for row in box.replicas:
            _say_replica(row)
        for failure in box.failures:
            say(f"cannot load {failure.service}: {failure.reason}", lead="  ")
        if box.alive and not box.replicas and not box.failures:
            say("no replica", lead="  ")


def _memory(box: BoxReport) -> str:
    """What models may take, and what is predicted to be left."""
    if not box.memory_mib:
        return ""
    free = max(0, box.memory_mib * 1024**2 - sum(row.memory_bytes for row in box.replicas))
    return f"{show_memory(free)} of {show_memory(box.memory_mib * 1024**2)} free for models"


def _say_replica(row: Row) -> None:
    plan = row.plan
    name = " ".join(filter(None, (plan["model"], plan["quant"])))
    service = "" if row.service.name == plan["model"] else f" as {row.service.name}"
    speed = f", {show_rate(row.decode_tok_s)} tok/s" if row.decode_tok_s else ""
    takes = f", {show_memory(row.memory_bytes)}" if row.memory_bytes else ""
    busy = f"{row.n_busy} of {counted(row.n_slots, 'slot')} busy, {row.n_waiting} waiting"
    what = f"{name} on {plan['backend']}{service}, {plan['state']}{takes}"
    say(f"{what}: {busy}{speed}, {counted(row.n_answered, 'request')}", lead="  ")
    for reason in plan["reasons"]:
        say(reason, lead="    ")


@command.command("down")
@click.argument("model", required=False)
@click.option("--all", "everything", is_flag=True, help="Stop what is served on all boxes first.")
@address
def down(*, model: str | None, everything: bool, address: str | None) -> None:
    """Take this machine out of its cluster; of the head, that ends the cluster. With MODEL, stop to serve that one."""
    if model is not None and everything:
        raise UsageError("--all takes away all models", hint="leave out MODEL, or --all", param="everything")
    if model is not None or everything:
        from edgellm_ray import deployment

        with ray_library.connected(address or raylet.address()):
            if model is None:
                deployment.end()
            else:
                deployment.take_away(model)
    if model is not None:
        say(f"{model} is not served any more.")
        return
    n_ended = raylet.stop()
    if not n_ended and not everything:
        raise UsageError("no cluster was started on this machine", hint="edgellm cluster up starts one")
    say(f"Ended here: {counted(n_ended, 'part')} of Ray.")
