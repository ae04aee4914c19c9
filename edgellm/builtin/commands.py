"""The built-in commands, registered as a plugin registers its own: names and one-line helps, nothing else is imported.

Each lives in `cli/<name>.py` (dashes become underscores) as a click command called `command`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgellm.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

# Name -> one-line help. The help is repeated from the command's docstring; a test keeps the two equal.
COMMANDS = {
    "adapters": "List, bring, export, merge and remove LoRA adapters.",
    "auto-select": "Choose the best model that this machine runs well, and say why.",
    "bench": "Measure a model's speed, memory and quality on this machine.",
    "bundle": "Make, check and install bundles for machines without a network.",
    "calibrate": "Measure how fast this CPU, or with --device a GPU, runs each quantization.",
    "client-config": "Write the lines that make a program use `edgellm serve`.",
    "completion": "Write the script with which a shell completes what is typed.",
    "convert": "Convert a model file or folder to another format.",
    "doctor": "Say what is used, what is not, why, and how to mend it.",
    "estimate": "Predict memory, speed and quality of a model without fetching it.",
    "gpu": "Build what computes on this machine's GPU.",
    "help": "List the commands, or explain one.",
    "image": "Write images for containers, and models as artifacts.",
    "list": "List the models on this disk.",
    "models": "List the catalog and what is on this disk.",
    "plan": "Choose models for a fleet of machines, each by itself or one for all.",
    "plugins": "List plugins and what is wrong with them.",
    "profile": "Show or write what EdgeLLM knows of this machine.",
    "pull": "Fetch a model without running it.",
    "quantize": "Make another quantization of a GGUF model.",
    "quants": "Explain quantization names and what this CPU does with them.",
    "rm": "Delete models from this disk.",
    "run": "Chat with a model in the terminal.",
    "serve": "Serve a model over HTTP on this machine.",
    "show": "Show what is known of a model.",
    "tune": "Tune a model on examples of a task.",
}


@hookimpl
def register_commands(register: Callable[[click.Command], None]) -> None:
    from edgellm.contract.command import LazyCommand

    for name, short_help in COMMANDS.items():
        register(LazyCommand(name, short_help, f"edgellm.cli.{name.replace('-', '_')}"))
