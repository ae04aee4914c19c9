"""Names of GPUs as drivers, profiles and data sheets write them, brought to the words that tell one from another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from edgellm.types.gpu import Vendor

# Vendors, brands and forms that no two GPUs differ in, once the sizes of their memories are compared.
_SAY_NOTHING = frozenset({
    "nvidia", "geforce", "amd", "ati", "radeon", "intel", "apple", "qualcomm", "arm", "corporation", "graphics", "gpu",
    "series", "generation", "workstation", "server", "edition", "design", "with", "w", "integrated",
})  # fmt: skip
# Beside a name, these make it another device: an RTX 4070 is no RTX 4070 Ti SUPER.
_AFTER = frozenset({
    "ti", "super", "xt", "xtx", "gre", "laptop", "maxq", "m", "d", "s", "se", "ada", "pro", "max", "max+", "ultra",
    "sff", "nvl", "extreme",
})  # fmt: skip
_BEFORE = frozenset({"quadro", "pro", "titan", "tesla", "max"})
_MODEL_NUMBER = re.compile(r"(?=.*\d)(?:[a-z]{1,2}\d{2,}[a-z]*|\d{3,}[a-z]*)")
_SAME_WORD = {"mobile": "laptop", "notebook": "laptop"}
_VENDORS: dict[Vendor, str] = {
    "nvidia": r"nvidia|geforce|quadro|tesla|titan|jetson|\b[rg]tx\b",
    "amd": r"\bamd\b|\bati\b|radeon|instinct|ryzen|\bradv\b|\brx\b",
    "intel": r"intel|\barc\b|\biris\b|\buhd\b",
    "apple": r"apple",
    "qualcomm": r"qualcomm|adreno|snapdragon",
    "arm": r"\bmali\b|immortalis",
    "broadcom": r"\bv3d\b|videocore|broadcom",
}


@dataclass(frozen=True, slots=True)
class GpuName:
    """`words` in order; the sizes that stood between them apart."""

    words: tuple[str, ...]
    gib: int | None = None
    cores: int | None = None

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def numbers(self) -> frozenset[str]:
        """Model numbers without their letters: what relatives share."""
        return frozenset(re.sub(r"\D", "", word) for word in self.words if _MODEL_NUMBER.fullmatch(word))


@lru_cache(maxsize=2048)
def read(name: str) -> GpuName:
    """`"NVIDIA GeForce RTX 4070 Ti SUPER"` -> rtx 4070 ti super; `"Apple M3 Max (40c)"` -> m3 max, 40 cores."""
    text = re.sub(r"\((?:r|tm)\)|[®™]", " ", name.lower()).replace("max-q", "maxq")
    text, gib = _take(r"\b(\d+)\s*gi?b\b", text)
    text, cores = _take(r"\b(\d+)[\s-]*(?:xe\d?[\s-]*)?(?:cores?|c|cu)\b", text)
    words = (_SAME_WORD.get(word, word) for word in re.findall(r"[a-z0-9_]+\+?(?:\.\d+)?", text))
    return GpuName(tuple(word for word in words if word not in _SAY_NOTHING), gib, cores)


def vendor(name: str) -> Vendor:
    """Whose GPU the name says it is."""
    return next((brand for brand, words in _VENDORS.items() if re.search(words, name.lower())), "unknown")


def _take(pattern: str, text: str) -> tuple[str, int | None]:
    match = re.search(pattern, text)
    return (re.sub(pattern, " ", text), int(match[1])) if match else (text, None)


def position(part: tuple[str, ...], name: tuple[str, ...]) -> int | None:
    """Where `part` stands in `name` with nothing beside it that makes it another device; None = nowhere."""
    for start in range(len(name) - len(part) + 1):
        end = start + len(part)
        before, after = name[start - 1] if start else "", name[end] if end < len(name) else ""
        if name[start:end] == part and before not in _BEFORE and not _continues(part[-1], after):
            return start
    return None


def _continues(last: str, after: str) -> bool:
    return after in _AFTER or (not any(char.isdigit() for char in last) and _MODEL_NUMBER.fullmatch(after) is not None)
