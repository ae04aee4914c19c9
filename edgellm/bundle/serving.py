"""What a bundle may have served: its own model, with the flags of `edgellm serve` that a plan has, and no others.

Where a machine listens, for whom, by which key, and what programs may change there is its operator's alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgellm.types.plan import Candidate

OFFLINE = "--offline"
# Flag -> its value; None = it has none. Older readers refuse a bundle with a flag that is added here.
FLAGS: Mapping[str, re.Pattern[str] | None] = {
    "--backend": re.compile(r"[a-z][a-z0-9_-]{0,63}"),
    "--ctx": re.compile(r"[0-9]{1,9}"),
    "--slots": re.compile(r"[0-9]{1,4}"),
    "--kv": re.compile(r"[a-z0-9_]{1,20}"),
    "--gpu-layers": re.compile(r"-1|[0-9]{1,5}"),
    "--think": None,
    "--adapter": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),  # of the store: neither a path nor NAME=FILE
    OFFLINE: None,
}


def arguments(choice: Candidate, adapters: Sequence[str], *, thinking: bool) -> tuple[str, ...]:
    """Arguments of `edgellm serve` that run the plan. How many threads fit, the machine itself knows best."""
    return (
        f"{choice.model}:{choice.quant}", "--backend", choice.backend, "--ctx", str(choice.ctx),
        "--slots", str(choice.slots), "--kv", choice.kv_type, "--gpu-layers", str(choice.gpu_layers),
        *(("--think",) if thinking else ()), *(word for name in adapters for word in ("--adapter", name)), OFFLINE,
    )  # fmt: skip


def problem(model: str, given: Sequence[str]) -> str:
    """What is wrong with arguments that are to serve `model`, which is `ID:QUANT`; "" = nothing."""
    if not given or given[0] != model or model.startswith("-"):
        return f"serves {given[0][:80] if given else ''!r}, which is not its model"
    if OFFLINE not in given:
        return f"is served without {OFFLINE}"
    words = iter(given[1:])
    for flag in words:
        if flag not in FLAGS:
            return f"is served with {flag[:80]!r}; there may be {', '.join(FLAGS)}"
        value = FLAGS[flag]
        if value is not None and not value.fullmatch(word := next(words, "")):
            return f"is served with {flag} {word[:80]!r}"
    return ""
