"""`edgellm completion`: what a shell needs to complete commands, flags, models, profiles, tasks and backends."""

from __future__ import annotations

import click

from edgellm.cli.page import examples

SHELLS = ("bash", "zsh", "fish")
NO_COLON = """\
# ID:QUANT is one word, as it is in the other shells.
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}"""


@click.command(
    epilog=examples(
        'eval "$(edgellm completion bash)"',
        'eval "$(edgellm completion zsh)"',
        "edgellm completion fish > ~/.config/fish/completions/edgellm.fish",
    )
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Write the script with which a shell completes what is typed.

    The line for bash belongs in ~/.bashrc, the one for zsh in ~/.zshrc behind compinit.
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None, "click completes in each of SHELLS"
    front = ctx.find_root()
    click.echo(complete(front.command, {}, "edgellm", "_EDGELLM_COMPLETE").source())
    if shell == "bash":
        click.echo(NO_COLON)
