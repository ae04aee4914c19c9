"""Kills workers, replicas, nodes and the proxy of a cluster on this machine at random moments, under 12 streams.

Run with the Python of .venv-ray: `make bench-cluster-kills` (ARGS="--model FILE.gguf --moments 30 --seed 18").
Prints figures, and fails where a stream just stopped, was silent for long, or was not what it would have been.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from support.ray_cluster import Boxes
    from support.ray_streams import Stream

NODES = ("a", "b", "c")
LONGEST_S = 10.0  # without a new piece of text, or the end
EXACT = 0.95  # of greedy and seeded streams that were asked for again
DRAWN = ({"temperature": 0}, {"seed": 7}, {"temperature": 0}, {})  # by turns; those of {} cannot go on
_RESUMED = "resumed, "


class Death(NamedTuple):
    """`share`: when, as a part of the time that the answers take."""

    part: str
    node: str
    share: float


def deaths(seed: int, n: int, parts: Sequence[str]) -> Iterator[Death]:
    """Each part dies as often as the others."""
    chance = random.Random(seed)
    kinds = [parts[number % len(parts)] for number in range(n)]
    chance.shuffle(kinds)
    for kind in kinds:
        yield Death(kind, chance.choice(NODES), chance.random())


class Clients:
    """They ask at once, each the same each time.

    Attributes:
        undisturbed: what each is told where nothing dies.
    """

    def __init__(self, boxes: Boxes, n_streams: int, n_tokens: int) -> None:
        self._boxes = boxes
        self._bodies = [
            {
                "messages": [{"role": "user", "content": f"Tell me a story about the number {number}. " * 3}],
                "max_tokens": n_tokens,
                **DRAWN[number % len(DRAWN)],
            }
            for number in range(n_streams)
        ]
        self._ended(self._begun())  # what comes first takes longer
        began = time.monotonic()
        streams = self._ended(self._begun())
        self._seconds = time.monotonic() - began
        assert not [stream for stream in streams if stream.error], "an answer failed before anything died"
        self.undisturbed = [stream.text for stream in streams]

    def under(self, death: Death) -> list[Stream]:
        """Their streams, ended, where something dies meanwhile."""
        from support.ray_streams import kill

        row = self._boxes.rows()[death.node]
        streams = self._begun()
        time.sleep(death.share * self._seconds)
        kill(self._boxes, death.part, row)
        return self._ended(streams)

    def _begun(self) -> list[Stream]:
        from support.ray_streams import Stream

        return [Stream(self._boxes, body, f"stream {number}") for number, body in enumerate(self._bodies)]

    @staticmethod
    def _ended(streams: list[Stream]) -> list[Stream]:
        from support.ray_streams import wait_for_ends

        wait_for_ends(streams)
        return streams


class Judge:
    """Counts what became of streams.

    Attributes:
        ends: streams by what became of them.
        wrong: what must not be.
    """

    def __init__(self, undisturbed: Sequence[str]) -> None:
        self._undisturbed = undisturbed
        self._pauses: dict[str, list[float]] = defaultdict(list)  # the longest of each death, by part
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []

    def sees(self, death: Death, streams: Sequence[Stream]) -> str:
        """All streams of one death."""
        ends = Counter(self._end(number, stream) for number, stream in enumerate(streams))
        self.ends.update(ends)
        longest = max(stream.longest_pause_s for stream in streams)
        self._pauses[death.part].append(longest)
        if longest > LONGEST_S:
            self.wrong.append(f"{death}: a stream was silent for {longest:.1f} s")
        for stream in streams:
            if death.part != "proxy" and stream.node != death.node and (stream.error or stream.n_resumed):
                self.wrong.append(f"{death}: a stream of {stream.node} was touched, too ({stream.error})")
        return f"{death.part} of {death.node} at {death.share:.2f}: silent for {longest:.1f} s at most; {dict(ends)}"

    def _end(self, number: int, stream: Stream) -> str:
        is_same = stream.text == self._undisturbed[number]
        if DRAWN[number % len(DRAWN)] == {}:
            return stream.error or "not repeatable, whole"
        how = _RESUMED if stream.n_resumed else ""
        return how + (stream.error or ("the same text" if is_same else "another text"))

    def report(self) -> dict[str, Any]:
        """Figures; `wrong` is complete behind it."""
        resumed = sum(n for end, n in self.ends.items() if end.startswith(_RESUMED))
        exact = self.ends[f"{_RESUMED}the same text"] / resumed if resumed else 1.0
        if exact < EXACT:
            self.wrong.append(f"{exact:.3f} of the streams that went on elsewhere were what they would have been")
        return {
            "deaths": sum(map(len, self._pauses.values())),
            "streams": sum(self.ends.values()),
            "ends": dict(self.ends),
            "resumed": resumed,
            "exact": exact,
            "longest_pause_s": {part: round(max(pauses), 2) for part, pauses in self._pauses.items()},
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="echo", help="echo, an id or a file")
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=120, help="of an answer")
    parser.add_argument("--seed", type=int, default=18)
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.ray_cluster import Boxes
    from support.ray_streams import PARTS

    boxes = Boxes(tempfile.mkdtemp(prefix="ray-kills-", dir="/tmp"), Path(os.environ["EDGELLM_HOME"]))
    try:
        boxes.add(*NODES, EDGELLM_ECHO_STEP_S="0.03")
        boxes.serve(options.model, slots=4, ctx=1024, threads=1)
        clients = Clients(boxes, options.streams, options.tokens)
        judge = Judge(clients.undisturbed)
        for death in deaths(options.seed, options.moments, PARTS):
            print(judge.sees(death, clients.under(death)), file=sys.stderr, flush=True)
            boxes.restore(NODES)
            boxes.wait_for(len(NODES))
        print(json.dumps({**vars(options), **judge.report()}, indent=1), flush=True)
    finally:
        boxes.close()
    print("\n".join(judge.wrong) or "nothing is wrong", file=sys.stderr)
    return bool(judge.wrong)


if __name__ == "__main__":
    sys.exit(main())
