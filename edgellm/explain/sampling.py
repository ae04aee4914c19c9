"""What answers are drawn by, in sentences."""

from __future__ import annotations

from edgellm.types.sampling_defaults import SamplingDefaults, SamplingPart, UnusedKey


def sampling(fact: SamplingDefaults) -> str:
    return f"Sampling: {drawn_by(fact)}."


def drawn_by(fact: SamplingDefaults) -> str:
    """`"temperature 0.2, top_p 0.9 (catalog: model card); top_k 40, min_p 0.05 (usual values)"`."""
    rows = "; ".join(f"{_values(part)} ({_origin(part)})" for part in fact.parts)
    return ". ".join((rows or "the model's own distribution", *map(unused_key, fact.unused)))


def unused_key(key: UnusedKey) -> str:
    """Without the full stop."""
    if key.allowed:
        return f"The file's {key.key} is ignored: {key.value} is not in its range ({key.allowed})"
    return f"Not applied: the file's {key.key} ({key.value}), which is not implemented"


def _values(part: SamplingPart) -> str:
    seed = {} if part.values.seed is None else {"seed": part.values.seed}
    biases = {"logit_bias": f"of {len(part.values.logit_bias)}"} if part.values.logit_bias else {}
    said = {name: f"{value:g}" for name, value in part.values.said.items()}
    return ", ".join(f"{name} {value}" for name, value in (said | seed | biases).items())


def _origin(part: SamplingPart) -> str:
    match part.origin:
        case "request":
            return "the request"
        case "operator":
            return "as asked"
        case "file":
            return f"the file: {part.source}"
        case "catalog":
            variant = {None: "", True: ", thinking", False: ", not thinking"}[part.thinking]
            return f"catalog{variant}: {part.source}{', unverified' if part.unverified else ''}"
        case "usual":
            return "usual values"
