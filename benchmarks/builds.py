"""Two builds of libllama on one model: decode, prompts, and what it takes to choose the code for the processor.

    python benchmarks/builds.py FOLDER [--base FOLDER] [--model FILE] [--pairs 20]

FOLDER holds the libraries of one build, --base those of the other (as it is installed unless given). Each build has a
process of its own, and they take turns: a pair is one run of each, first this one, then the other. One thread, and its
processor time, so that other programs count little; what they do to caches and clocks both builds meet. Choosing is
measured in new processes: the time from ggml's first call to a backend that computes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from edgellm.app.launch import model_plan
from edgellm.types.request import SelectionRequest

PROMPT, STEPS = 256, 32  # tokens
STARTS = 9


class Build:
    """A process with one build, which runs the model when it is asked."""

    def __init__(self, folder: str | None, model: str) -> None:
        own = {} if folder is None else {"LLAMA_CPP_LIB_PATH": folder}
        self._command = [sys.executable, __file__, "--child", model]
        self._environment = os.environ | own
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def ask(self, what: str) -> Any:
        return _ask(self._process, what)

    def starts(self) -> list[float]:
        """Seconds that choosing takes, in new processes."""
        times = []
        for _ in range(STARTS):
            with self._start() as process:
                times.append(float(_ask(process, "start")))
        return times

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


def _ask(process: subprocess.Popen[str], what: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(what + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def child(model: str, questions: IO[str]) -> None:
    """Answer each line of stdin with one of JSON."""
    from edgellm_gguf import ggml

    engine: Any = None
    for question in questions:
        if question.strip() == "start":
            ggml.library.ggml_backend_dev_count()  # resolved before the clock starts
            start = time.perf_counter()
            ggml.start()
            print(json.dumps(time.perf_counter() - start), flush=True)
            continue
        engine = engine or _engine(model)
        print(json.dumps(_run(engine)), flush=True)


def _engine(model: str) -> Any:
    from edgellm_gguf.engine import LlamaEngine

    from edgellm.types.model import Artifact
    from edgellm.types.plan import LaunchPlan, Settings

    return LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (model,), "model"), Settings(PROMPT + STEPS + 8)))


def _run(engine: Any) -> dict[str, float]:
    """Seconds of a prompt and of the steps behind it."""
    from edgellm.contract.engine import SlotInput

    engine.truncate(0, 0)
    start = time.thread_time()
    engine.step([SlotInput(0, 0, tuple(range(100, 100 + PROMPT)), 1)])
    prompt = time.thread_time() - start
    start = time.thread_time()
    for past in range(PROMPT, PROMPT + STEPS):
        engine.step([SlotInput(0, past, (101,), 1)])
    return {"prompt": prompt, "decode": time.thread_time() - start}


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.stdin)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="libraries of the build that is compared")
    parser.add_argument("--base", help="libraries of the other; as installed unless given")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a file, or a model of the catalog")
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    path = options.model
    if not Path(path).exists():
        path = model_plan(path, SelectionRequest(backend="gguf", ctx=512)).artifact.path
    base, other = Build(options.base, path), Build(options.folder, path)
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    for build in (base, other):
        build.ask("run")  # pages are read, threads and caches warm
    for at in range(options.pairs):
        times = {build: build.ask("run") for build in ((base, other) if at % 2 else (other, base))}
        pairs.append((times[base], times[other]))
    print(f"{path}, {options.pairs} pairs, load {os.getloadavg()[0]:.1f}; rate of {options.folder} over the other's\n")
    print("| | median | quartiles | tok/s | tok/s of the other |\n|---|---|---|---|---|")
    for what, tokens in (("decode", STEPS), ("prompt", PROMPT)):
        ratios = [theirs[what] / ours[what] for theirs, ours in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        ours, theirs = (statistics.median(pair[side][what] for pair in pairs) for side in (1, 0))
        print(f"| {what} | {middle:.3f} | {low:.3f} to {high:.3f} | {tokens / ours:.1f} | {tokens / theirs:.1f} |")
    print("\n| choosing, ms | least | median | most |\n|---|---|---|---|")
    for name, build in (("this", other), ("the other", base)):
        starts = [1e3 * seconds for seconds in build.starts()]
        print(f"| {name} | {min(starts):.1f} | {statistics.median(starts):.1f} | {max(starts):.1f} |")
        build.close()


if __name__ == "__main__":
    main()
