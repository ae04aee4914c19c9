"""SIGKILL at random moments of a download: `make soak-downloads` (ARGS="--moments 100 --seed 7").

Each moment: a process fetches a model, is killed, and another process fetches it again. After the kill the model is
whole and right under its final name, or absent; the second process asks for what is missing and no more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support import gguf_writer
from support.store_server import ModelServer, sha256, start_fetch
from support.waiting import wait_until

from edgellm.store.download import CHUNK_BYTES
from edgellm.types.model import ModelFile

NAME = "o/r/m-Q8_0.gguf"
SCHEMES = ("hf", "https", "ollama")
PEEK_BYTES = 64  # a web address is asked for its length first
PACE_S, SENDING_S = 0.01, 0.5  # between chunks; all of them


@dataclass(frozen=True)
class Outcome:
    """One moment. Sizes in bytes."""

    scheme: str
    after_s: float  # from the first byte to the kill
    was_whole: bool  # under its final name, after the kill
    had: int  # on the disk after the kill
    told: int  # that the killed process had said it has
    again: int  # sent to the second process
    total: int

    @property
    def missing(self) -> int:
        return 0 if self.was_whole else self.total - self.had

    def problems(self) -> list[str]:
        """What does not hold; empty = all does."""
        problems = []
        if self.again > self.missing + CHUNK_BYTES:
            problems.append(f"{self.missing} bytes were missing, {self.again} were sent again")
        if not self.was_whole and self.had + CHUNK_BYTES < self.told:
            problems.append(f"{self.told} bytes were told, {self.had} are on the disk")
        return problems


def model_bytes() -> bytes:
    """A sound model of 3 MB that does not compress."""
    made = gguf_writer.model()
    rows = 48_000
    made.tensors.append(gguf_writer.Tensor("blk.0.ffn_up.weight", (64, rows), gguf_writer.Q8_0, rows * 68))
    data = made.build()
    noise = random.Random(1).randbytes(len(data) - 4096)
    return data[: -len(noise)] + noise


def environment(server: ModelServer, home: Path) -> dict[str, str]:
    return {
        "EDGELLM_HOME": str(home), "OLLAMA_MODELS": str(home / "ollama"), "HF_ENDPOINT": server.url,
        "HF_HOME": str(home / "hf"), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip


def one_moment(scheme: str, after_s: float, data: bytes, home: Path) -> Outcome:
    """
    Raises:
        AssertionError: something wrong lies under a final name, or the second process does not bring the model.
    """
    server = ModelServer()
    server.files[NAME] = data
    server.models["library/tiny/1b"] = [NAME]
    server.pace_s = SENDING_S / (len(data) / server.chunk)
    uri = {
        "hf": f"hf://{NAME}",
        "https": f"{server.url}/files/{NAME}",
        "ollama": f"ollama://{server.url.removeprefix('http://')}/library/tiny:1b",
    }[scheme]
    file = ModelFile(uri, "Q8_0", bytes=len(data), sha256=sha256(data))
    env = environment(server, home)
    try:
        process = start_fetch(file, env)
        wait_until(lambda: server.body_bytes() > PEEK_BYTES, what=lambda: process.poll() and process.communicate())
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
        # The kill may have cut the last line.
        whole = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
        lines = [line.split() for line in whole if line.startswith("progress")]
        told = max((int(words[1]) for words in lines if words[3] != "checking"), default=0)
        was_whole = check_final(home, data)
        had = max((path.stat().st_size for path in home.rglob("*.incomplete") if path.is_file()), default=0)
        had = max(had, *(path.stat().st_size for path in (*home.rglob("blobs/*"), *home.rglob("*.gguf"))), 0)
        before, server.pace_s = len(server.seen), 0.0
        out, err = start_fetch(file, env).communicate(timeout=60)
        assert out.splitlines()[-1].startswith("artifact "), out + err
        assert Path(out.splitlines()[-1].removeprefix("artifact ")).read_bytes() == data
        assert check_final(home, data)
        return Outcome(scheme, after_s, was_whole, had, told, server.body_bytes(before), len(data))
    finally:
        server.close()


def check_final(home: Path, data: bytes) -> bool:
    """Whether the model is there; everything under a final name must be right."""
    for blob in (home / "hub").rglob("blobs/*"):
        assert "incomplete" in blob.name or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    records = [path for path in (home / "data" / "models").glob("*/*/stored.json") if path.parent.name[0] != "."]
    for record in records:
        for file in json.loads(record.read_text())["files"]:
            assert (record.parent / file["path"]).read_bytes() == data
    return bool(records)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="of each source")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, data, wrong, whole, most = random.Random(options.seed), model_bytes(), 0, 0, 0
    for scheme in SCHEMES:
        for _ in range(options.moments):
            with tempfile.TemporaryDirectory() as folder:
                outcome = one_moment(scheme, chance.uniform(0, 1.3 * SENDING_S), data, Path(folder))
            most, whole = max(most, outcome.again - outcome.missing), whole + outcome.was_whole
            wrong += bool(outcome.problems())
            print(outcome, *outcome.problems(), sep="\n  ")
    kills = 3 * options.moments
    print(f"{kills} kills, {whole} after the end, {wrong} wrong; at most {most} bytes more than were missing")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.pop("EDGELLM_OFFLINE", None)
    sys.exit(main())
