"""Every profile times six kinds of request, and every device times four more, against tests/golden/decisions.txt.

The diff of a rule change is the list of devices whose answer changed. Write it anew with
`EDGELLM_UPDATE_GOLDEN=1 pytest tests/selection/test_golden.py`, and read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.contexts import context

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.hardware import profiles
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.machine import Machine
from edgellm.types.model_reason import FewerBitsTaken
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import ShorterContext, Slow
from edgellm.types.request import KV_TYPES, SelectionRequest
from edgellm.units import show_memory

GOLDEN = Path(__file__).parents[1] / "golden" / "decisions.txt"
REQUESTS = {
    "chat": SelectionRequest(),
    "code": SelectionRequest(task="code"),
    "agent": SelectionRequest(task="agent"),
    "agent ctx=32768": SelectionRequest(task="agent", ctx=32768),
    "chat slots=4 max=4GiB": SelectionRequest(slots=4, max_memory_bytes=4 * 1024**3),
    "embed": SelectionRequest(task="embed"),
    # The rest for the first size of a device only.
    "chat ctx=32768": SelectionRequest(ctx=32768),
    "chat ctx=32768 kv=q4_0": SelectionRequest(ctx=32768, kv_type="q4_0"),
    "chat at 10 tok/s": SelectionRequest(min_tps=10.0),
    "chat from pypi only": SelectionRequest(),
}
EVERY_SIZE = tuple(REQUESTS)[:6]
COMPROMISES = {"Slow": Slow, "Nothing fits at": FewerBitsTaken, "Nothing holds": ShorterContext}
WITH_RUNNERS_UP = ("chat", "agent")
# What stock llama.cpp opens; the golden file must not depend on which plugins are installed.
BACKENDS = (BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES)),)


def titles_of_profiles() -> dict[str, tuple[str, ...]]:
    """Profile -> the requests that are recorded for it."""
    seen: set[str] = set()
    titles: dict[str, tuple[str, ...]] = {}
    for name in profiles.names():
        device = re.sub(r"-\d+[gm]b$", "", name)
        titles[name] = EVERY_SIZE if device in seen else tuple(REQUESTS)
        seen.add(device)
    return titles


def lines() -> Iterator[str]:
    # Half the time on two processors; a fresh process each, so that nothing depends on what ran before.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for answers in pool.map(of_profile, titles_of_profiles().items(), chunksize=8):
            yield from answers


def of_profile(profile: tuple[str, tuple[str, ...]]) -> list[str]:
    name, titles = profile
    machine = profiles.load(name)
    rows = list(catalog().values())
    found = [f"{name}: budget {show_memory(machine.memory_budget_bytes)}, {machine.compute_threads} threads"]
    for title in titles:
        found += answer(machine, title, REQUESTS[title], rows)
    return found


def answer(machine: Machine, title: str, request: SelectionRequest, rows: list) -> Iterator[str]:
    try:
        reachable = ("pypi", "file") if title == "chat from pypi only" else None
        decision = decide(context(machine, rows, BACKENDS, reachable=reachable), request)
    except NothingFits as error:
        yield f"  {title}: nothing fits: {error.message}"
        return
    assert decision.choice is not None
    notes = [note for note, kind in COMPROMISES.items() if has(decision, kind)]
    chosen = short(decision.choice, reads_only=request.task == "embed")
    yield f"  {title}: {chosen}{''.join(f' [{note}]' for note in notes)}"
    if title not in WITH_RUNNERS_UP:
        return
    for runner in decision.runners_up[:2]:
        yield f"    lost: {short(runner)}; {lost(decision, runner.model)}"


def has(decision: Decision, kind: type) -> bool:
    return any(isinstance(reason, kind) for reason in decision.reasons)


def short(c: Candidate, *, reads_only: bool = False) -> str:
    cached = "" if c.kv_type == "f16" else f" in {c.kv_type}"
    rate = f"reads {c.prefill.tok_s:.3g} tok/s" if reads_only else f"{c.decode.tok_s:.3g} tok/s"
    return f"{c.model} {c.quant}, ctx {c.ctx}{cached}, {rate}, {show_memory(c.footprint.needed_bytes)}"


def lost(decision: Decision, model: str) -> str:
    return next(explain.refusal(r.reason) for r in decision.rejected if r.model == model and r.rule == "best_model")


def test_every_forty_eighth_profile_gets_the_answer_on_record() -> None:
    blocks = {block.partition(":")[0]: block for block in re.split(r"\n(?! )", GOLDEN.read_text("utf-8").rstrip("\n"))}

    assert list(blocks) == profiles.names()
    for profile in list(titles_of_profiles().items())[::48]:
        assert "\n".join(of_profile(profile)) == blocks[profile[0]]


@pytest.mark.slow(34)
def test_every_profile_gets_the_answer_on_record() -> None:
    now = "\n".join(lines()) + "\n"
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        GOLDEN.write_text(now, "utf-8")
    recorded = GOLDEN.read_text("utf-8")
    changed = [f"-{a}\n+{b}" for a, b in zip(recorded.splitlines(), now.splitlines(), strict=False) if a != b]

    assert now == recorded, f"{len(changed)} lines differ, the first:\n" + "\n".join(changed[:5])
