"""`edgellm convert`: a model of one format becomes a file of another, by the converters that plugins register."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm.cli.page import examples, say_json, say_lines
from edgellm.errors import UsageError
from edgellm.units import show_size

if TYPE_CHECKING:
    from edgellm.contract.converter import Converter

SCHEMA = 1


@click.command(
    epilog=examples(
        "edgellm convert model.gguf --to onnx --out model-onnx",
        "edgellm convert bitnet.gguf --to tq2_0 --out bitnet-tq2_0.gguf",
    )
)
@click.argument("model")
@click.option("--to", "to_format", metavar="FORMAT", required=True, help="Format to write, as i2_s, tq2_0 or onnx.")
@click.option("--out", metavar="PATH", required=True, help="File to write, or folder where the format is one.")
@click.option("--bits", type=click.Choice(["4", "8", "16"]), help="Bits of each weight, for onnx.")
@click.option("--embedding", metavar="TYPE", default="", help="Type of the embedding and output tables, as q6_k.")
@click.option(
    "--i2s-layout", type=click.Choice(["x86", "arm"]), help="Order of codes in an I2_S file that does not tell."
)
@click.option("--force", is_flag=True, help="Let --out replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (schema in docs/cli.md).")
def command(
    *,
    model: str,
    to_format: str,
    out: str,
    bits: str | None,
    embedding: str,
    i2s_layout: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert a model file or folder to another format."""
    from edgellm.app import own_format
    from edgellm.app.convert import convert
    from edgellm.cli.progress import progress
    from edgellm.contract.converter import Conversion
    from edgellm.contract.manager import plugins

    source = own_format.identified(model)
    host = plugins()
    converters = host.converters()
    converter = _choose(converters, source.format, to_format.lower(), host.suspects("register_converters"))
    conversion = Conversion(
        source, Path(out), to_format.lower(), embedding.lower(), i2s_layout or "", force, int(bits or 0)
    )
    with progress() as report:
        result = convert(converter, conversion, report)
    if as_json:
        answer = {"schema": SCHEMA, "path": str(result.path), "bytes": result.bytes, "notes": result.notes}
        say_json(answer)
        return
    say_lines(f"Wrote {result.path}, {show_size(result.bytes)}")
    for note in result.notes:
        say_lines(f"  {note}")


def _choose(converters: dict[tuple[str, str], Converter], from_format: str, to_format: str, suspects: str) -> Converter:
    if (from_format, to_format) in converters:
        return converters[from_format, to_format]
    ways = sorted(to for start, to in converters if start == from_format)
    raise UsageError(
        f"nothing installed converts {from_format} to {to_format!r}",
        hint=(
            f"from {from_format} there is: {', '.join(ways)}" if ways else "`edgellm plugins` lists what is installed"
        )
        + suspects,
        param="to",
    )
