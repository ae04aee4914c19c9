"""What a start costs: whole processes against the interpreter alone, and what they do inside.

    python benchmarks/start.py [--runs 15] [--base PYTHON]

Processes run by turns, one round after another; the first round is left out. "times python" is the median over the
median of `python -c pass`, which a busy machine slows as much. `--base` names the Python of another checkout's `.venv`:
its processes run in the same rounds, and "times base" says what changed. The parts run in this process, the best of
several. On a quiet machine the promises are 150 ms for `--help`, 500 ms for `auto-select --json`, 50 ms for a header,
1 ms for one that was read before, 1.5 s for a tokenizer, 40 ms for the catalog and 1 ms for a template.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

COMMANDS = (("-c", "pass"), ("-m", "edgellm", "--help"), ("-m", "edgellm", "auto-select", "--json"))
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


def run(python: str, arguments: Sequence[str]) -> float:
    """Milliseconds of a whole process, which imports what its own interpreter has installed, nothing from here."""
    started = time.perf_counter()
    subprocess.run([python, "-P", *arguments], stdout=subprocess.DEVNULL, check=True)
    return 1000 * (time.perf_counter() - started)


def processes(pythons: Sequence[str], rounds: int) -> dict[tuple[str, tuple[str, ...]], float]:
    """Median milliseconds by interpreter and command."""
    times: dict[tuple[str, tuple[str, ...]], list[float]] = {(p, c): [] for p in pythons for c in COMMANDS}
    for number in range(rounds + 1):
        for (python, command), values in times.items():
            took = run(python, command)
            if number > 0:
                values.append(took)
    return {key: statistics.median(values) for key, values in times.items()}


def best_ms(call: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


def stored(model_id: str) -> str | None:
    """Path of a model that the user's own store holds; nothing is fetched."""
    from edgellm.catalog import lookup
    from edgellm.store.library import Library

    card = lookup.find(model_id)
    return next((artifact.path for file in card.files if (artifact := Library().locate(file, card.id))), None)


def parts() -> Iterator[tuple[str, float]]:
    """(what, milliseconds) of what a start does, without the imports."""
    from edgellm.catalog import lookup
    from edgellm.formats.gguf.reader import read_model
    from edgellm.formats.gguf.summary import summary_of
    from edgellm.formats.tokenizer.from_gguf import read_tokenizer
    from edgellm.text.chat import ChatTemplate
    from edgellm.types.message import Message

    def catalog() -> None:
        lookup._shipped.cache_clear()
        lookup.catalog()

    yield "catalog read", best_ms(catalog)
    template = ChatTemplate(CHATML)
    turns = [Message("user", "What is the capital of France?")]
    yield "short chat rendered", best_ms(lambda: template.render(turns), 50)
    for model_id in MODELS:
        path = stored(model_id)
        if path is None:
            print(f"{model_id} is not stored: `edgellm run {model_id}` fetches it", file=sys.stderr)
            continue
        yield f"{model_id}: header read", best_ms(lambda path=path: read_model(path))  # type: ignore[misc]
        summary_of(path)
        yield f"{model_id}: header remembered", best_ms(lambda path=path: summary_of(path), 20)  # type: ignore[misc]
        header = read_model(path).header
        yield f"{model_id}: tokenizer made", best_ms(lambda: read_tokenizer(header), 3)  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="rounds of processes (default: 15)")
    parser.add_argument("--base", metavar="PYTHON", help="the .venv/bin/python of a checkout to compare with")
    arguments = parser.parse_args()

    pythons = [sys.executable, *([arguments.base] if arguments.base else [])]
    with tempfile.TemporaryDirectory() as home:
        os.environ["EDGELLM_HOME"], before = home, os.environ.get("EDGELLM_HOME")
        for python in pythons:
            run(python, COMMANDS[-1])  # measures the memory's bandwidth, once
        medians = processes(pythons, arguments.runs)
        os.environ.pop("EDGELLM_HOME")
        if before is not None:
            os.environ["EDGELLM_HOME"] = before
    print(f"{'process':36} {'ms':>8} {'times python':>13}" + f" {'times base':>11}" * (len(pythons) - 1))
    for command in COMMANDS:
        ms = medians[sys.executable, command]
        line = f"{'python ' + ' '.join(command):36} {ms:8.0f} {ms / medians[sys.executable, COMMANDS[0]]:13.2f}"
        print(line + "".join(f" {ms / medians[base, command]:11.2f}" for base in pythons[1:]))
    print(f"\n{'part, best of several':44} {'ms':>8}")
    for what, ms in parts():
        print(f"{what:44} {ms:8.2f}")


if __name__ == "__main__":
    main()
