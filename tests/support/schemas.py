"""Random JSON schemas whose strings and arrays are bounded, so that an answer under one ends."""

from __future__ import annotations

import random
from typing import Any

KEYS = ("name", "age", "größe", "is_open", "tags", "address", "π", "a b", 'quo"te')


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """An object at the top; at most three levels."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    if depth < 3:
        kinds += ["object", "array", "anyOf"]
    return _of_kind(rng, "object" if depth == 0 else rng.choice(kinds), depth)


def _of_kind(rng: random.Random, kind: str, depth: int) -> dict[str, Any]:
    match kind:
        case "object":
            keys = rng.sample(KEYS, rng.randint(1, 4))
            properties = {key: random_schema(rng, depth + 1) for key in keys}
            required = [key for key in keys if rng.random() < 0.7]
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        case "array":
            least = rng.randint(0, 2)
            items = random_schema(rng, depth + 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randint(0, 2)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
        case "string":
            least = rng.randint(0, 3)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 6)}
        case "integer":
            least = rng.randint(-100, 100)
            return {"type": "integer", "minimum": least, "maximum": least + rng.randint(0, 200)}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": rng.randint(1, 1000)}
        case "enum":
            return {"enum": rng.sample(["red", "grün", 1, 2.5, None, True, "a\nb"], 3)}
        case "const":
            return {"const": rng.choice(["fixed", 7, False])}
        case _:
            return {"type": kind}
