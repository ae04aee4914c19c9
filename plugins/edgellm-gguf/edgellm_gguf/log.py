"""llama.cpp's log: warnings and errors end up in our errors, facts describe what runs. In a worker only."""

from __future__ import annotations

import ctypes
import logging
import re

import llama_cpp

from edgellm.units import MIB

log = logging.getLogger("edgellm.gguf")

KEPT = 64  # lines
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
# Picked by their words: they are logged at level 2, with much else.
_FACTS = re.compile(r"buffer size|offloaded \d+/\d+|using device")
_BUFFER = re.compile(r"buffer size\s*=\s*([\d.]+) MiB")
# An adapter of repacked weights is kept as it is, which is meant so: a line for each of its matrices.
_AS_MEANT = re.compile(r"cannot use buft '\w+', fallback to CPU")
# llama.cpp only returns NULL; these are the words of ggml and of the drivers below it (ggml.c, ggml-backend.cpp,
# llama-mmap.cpp, ggml-cuda.cu, ggml-vulkan.cpp).
_NO_MEMORY = re.compile(
    r"insufficient memory|out of ?memory|cannot allocate memory|unable to allocate|failed to allocate|bad_alloc"
    r"|OutOf(Device|Host)Memory",
    re.IGNORECASE,
)


class Log:
    """Listens to the library. It has one listener in a process, which must live as long as the library."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.facts: list[str] = []
        self._callback = llama_cpp.llama_log_callback(self._hear)

    def start(self) -> None:
        """Listen, and forget what was said about another model."""
        self.complaints, self.facts = [], []
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def last(self) -> str:
        """The last complaints, to end an error's text with."""
        tail = self.complaints[-2:]
        return ": " + "; ".join(tail) if tail else ""

    def out_of_memory(self) -> bool:
        """Whether a complaint is of memory, on the CPU or a GPU."""
        return any(_NO_MEMORY.search(line) for line in self.complaints)

    def devices(self) -> str:
        """Names of the devices beside the CPU that the model is spread over, as "CUDA0, CUDA1"; "" = none."""
        return ", ".join(match[1] for line in self.facts if (match := re.search(r"using device (\S+)", line)))

    def allocated_bytes(self) -> int | None:
        """All buffers, of which each is printed in MiB with two decimals; None = the library printed none."""
        sizes = [float(match[1]) for line in self.facts if (match := _BUFFER.search(line))]
        return round(sum(sizes) * MIB) if sizes else None

    def fact(self, words: str) -> str:
        """The first fact with these words, from them on; "" = none."""
        return next((line[line.index(words) :] for line in self.facts if words in line), "")

    def _hear(self, level: int, text: bytes, _user: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if not line or line == ".":
            return
        if _AS_MEANT.search(line):
            level = 2
        elif _FACTS.search(line) and level <= 2:
            self.facts = [*self.facts[1 - KEPT :], line]
        elif level >= 3:
            self.complaints = [*self.complaints[1 - KEPT :], line]
        log.log(_LEVELS.get(level, logging.DEBUG), line)
