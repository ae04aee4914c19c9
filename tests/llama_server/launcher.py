"""`llama-server`'s command line, for `edgellm serve`: what llama.cpp's server tests start instead of it.

What EdgeLLM does anyway is accepted, what it does not do is refused, as an option nobody knows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

# Names of templates that the tests use, which llama.cpp knows by heart.
TEMPLATES = {
    "command-r": "{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ 'CHATBOT' if m.role == 'assistant' else "
    "m.role | upper }}_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
    "llama3": "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
}
LEAST_CTX = 256  # of a slot
# What needs no word to EdgeLLM, with the number of values.
ANYWAY = {
    "--hf-repo": 1, "--hf-file": 1, "--n-predict": 1, "--batch-size": 1, "--ubatch-size": 1, "--pooling": 1, "-fa": 1,
    "--offline": 0, "--embedding": 0, "--reranking": 0, "--slots": 0, "--no-slots": 0, "--metrics": 0, "--jinja": 0,
    "--no-jinja": 0, "--cont-batching": 0, "--kv-unified": 0, "--verbose": 0,
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    made.add_argument("-m", "--model", type=Path, required=True)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", default="8080")
    made.add_argument("--alias")
    made.add_argument("--api-key")
    made.add_argument("--ctx-size", type=int)
    made.add_argument("--parallel", type=int, default=1)
    made.add_argument("--threads", default="1")
    made.add_argument("--temp")
    made.add_argument("--seed")
    made.add_argument("--reasoning", choices=("on", "off", "auto"))
    made.add_argument("--chat-template")
    made.add_argument("--chat-template-file", type=Path)
    for name, n_values in ANYWAY.items():
        made.add_argument(name, **({} if n_values else {"action": "store_true"}))
    return made


def command(options: argparse.Namespace) -> list[str]:
    """The arguments of `edgellm` that mean the same."""
    told = ["serve", str(named(model(options), options.alias)), "--any-model", "--host", options.host]
    told += ["--port", options.port, "--threads", options.threads, "--slots", str(options.parallel)]
    generates = options.model.suffix == ".gguf" and not options.model.with_suffix("").is_dir()
    if options.ctx_size and generates:  # theirs is that of all slots together
        told += ["--ctx", str(max(options.ctx_size // options.parallel, LEAST_CTX))]
    if options.temp is not None and generates:
        told += ["--temperature", options.temp]
    if options.seed is not None and generates:
        told += ["--seed", options.seed]
    if options.reasoning:
        told.append("--no-think" if options.reasoning == "off" else "--think")
    return told + os.environ.get("LLAMA_TESTS_SERVE", "").split()


def model(options: argparse.Namespace) -> Path:
    """What is served: a copy with another template where one is asked for, the folder of an encoder's file."""
    folder = options.model.with_suffix("")
    if folder.is_dir():
        return folder
    if options.chat_template_file:
        template = options.chat_template_file.read_text()
    elif options.chat_template:
        template = TEMPLATES.get(options.chat_template, options.chat_template)
    else:
        return options.model
    if template == "chatml":
        return options.model
    from llama_server.models import language_model  # imports numpy

    return language_model(Path(os.environ["LLAMA_TESTS_SOURCE"]) / "models", options.model.parent, template)


def named(path: Path, alias: str | None) -> Path:
    """The model under the name that it is to answer to."""
    if alias is None:
        return path
    places = path.parent / "named" / hashlib.sha256(f"{path}".encode()).hexdigest()[:16]
    places.mkdir(parents=True, exist_ok=True)
    link = places / (alias + path.suffix)
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return link


if __name__ == "__main__":
    asked = parser().parse_args()
    if asked.api_key:
        os.environ["EDGELLM_API_KEY"] = asked.api_key
    edgellm = Path(sys.executable).with_name("edgellm")
    os.execv(edgellm, [str(edgellm), *command(asked)])
