"""`edgellm cluster`: several machines that answer together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgellm.cli.page import examples, say, say_json
from edgellm.cli.words import BACKEND, MODEL, QUANT, TASK, TOKENS, WholeNumber
from edgellm.errors import UsageError
from edgellm.units import counted, show_rate
from edgellm_ray import ray_library, raylet
from edgellm_ray.token import take_token, token_file

if TYPE_CHECKING:
    from edgellm_ray.board import Row

SCHEMA = 1
PORT = 8642  # as of `edgellm serve`
PROXY_PORT = 8641

address = click.option(
    "--address", metavar="HOST:PORT", help="Head of the cluster, if not that which this machine is in."
)


@click.group(
    name="cluster",
    epilog=examples(
        "edgellm cluster up --host 192.168.1.10",
        "edgellm cluster join 192.168.1.10:6379 --token-file ./token",
        "edgellm cluster serve qwen3-4b",
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
@click.argument("model", required=False, type=MODEL)
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
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need an API key.")
@click.option("--port", type=WholeNumber(1, 65535), default=PORT, show_default=True)
@click.option(
    "--proxy-port",
    type=WholeNumber(1, 65535),
    default=PROXY_PORT,
    show_default=True,
    help="Of Ray's proxy, on the head's loopback address.",
)
@click.option("--public-name", metavar="NAME", help="Name by which clients reach the cluster, if not --host.")
@click.option("--api-key", metavar="KEY", help="Ask for this key; better EDGELLM_API_KEY.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME=auto", help="Answer to this name, too (repeat).")
@click.option("--any-model", is_flag=True, help="Answer to every name of a model.")
@address
def serve(
    *,
    model: str | None,
    replicas: str,
    queue: int,
    golden: Path | None,
    min_speed: float,
    host: str,
    port: int,
    proxy_port: int,
    public_name: str | None,
    api_key: str | None,
    aliases: tuple[str, ...],
    any_model: bool,
    address: str | None,
    **options: Any,
) -> None:
    """Serve a model on the boxes of the cluster, or put another in its place.

    Each box plans for itself; without MODEL, or with "auto", each chooses the best that it runs well. Returns when
    the cluster answers.
    """
    from edgellm import settings
    from edgellm.server.access import check_bind
    from edgellm.types.options import LaunchOptions
    from edgellm_ray import deployment, front, golden_file
    from edgellm_ray.config import ModelConfig, ServiceConfig
    from edgellm_ray.scaling import Replicas

    key = api_key or settings.current().api_key
    check_bind(host, key)
    asked = LaunchOptions.of(**options)
    _ = asked.request()  # a wrong value is told here, and not by a replica
    wanted = deployment.Deployment(
        model=ModelConfig(
            model=None if model == "auto" else model,
            options=asked,
            golden=golden_file.read(golden) if golden else (),
            min_speed=min_speed,
        ),
        service=ServiceConfig(api_key=key, public_name=public_name or host, aliases=aliases, any_model=any_model),
        replicas=Replicas.of(replicas),
        queue=queue,
    )
    with ray_library.connected(address or raylet.address()):
        config = front.FrontConfig(
            host=host,
            port=port,
            upstream=f"http://127.0.0.1:{proxy_port}",
            api_key=key,
            public_name=wanted.service.public_name,
        )
        before = front.start(config)
        try:
            deployment.deploy(wanted, port=proxy_port, tell=lambda text: say(text, err=True))
        except deployment.DeployFailed:
            front.start(before)  # what served goes on, with the key that it knows
            raise
    say(f"Open http://{host}:{port} (API: http://{host}:{port}/v1)")


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
    say(f"{report.deployment}{f': {report.problem}' if report.problem else ''}", bold=True)
    for box in report.boxes:
        say(f"{box.name}  {box.ip}  {'' if box.alive else 'gone'}".rstrip(), bold=True)
        for row in box.replicas:
            _say_replica(row)
        if box.failure:
            say(f"cannot load what is asked for: {box.failure}", lead="  ")
        elif box.alive and not box.replicas:
            say("no replica", lead="  ")


def _say_replica(row: Row) -> None:
    plan = row.plan
    name = " ".join(filter(None, (plan["model"], plan["quant"])))
    speed = f", {show_rate(row.decode_tok_s)} tok/s" if row.decode_tok_s else ""
    busy = f"{row.n_busy} of {counted(row.n_slots, 'slot')} busy, {row.n_waiting} waiting"
    say(f"{name} on {plan['backend']}, {plan['state']}: {busy}{speed}, {counted(row.n_answered, 'request')}", lead="  ")
    for reason in plan["reasons"]:
        say(reason, lead="    ")


@command.command("down")
@click.option("--all", "everything", is_flag=True, help="Stop what is served on all boxes first.")
@address
def down(*, everything: bool, address: str | None) -> None:
    """Take this machine out of its cluster; of the head, that ends the cluster."""
    if everything:
        from edgellm_ray import front

        with ray_library.connected(address or raylet.address()):
            from ray import serve

            serve.shutdown()
            front.stop()
    n_ended = raylet.stop()
    if not n_ended and not everything:
        raise UsageError("no cluster was started on this machine", hint="edgellm cluster up starts one")
    say(f"Ended here: {counted(n_ended, 'part')} of Ray.")
