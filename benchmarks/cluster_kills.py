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
EXACT = 0.95  # of greedy and seeded streams that went on elsewhere, and until then were what they would have been
DRAWN = ({"temperature": 0}, {"seed": 7}, {"temperature": 0}, {})  # by turns; those of {} are never told twice
_RESUMED, _SAME, _OTHER = "resumed, ", "the same text", "another text"


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
        from support.ray_streams import endless

        self._boxes = boxes
        self._bodies = [
            {
                "messages": [{"role": "user", "content": f"Tell me a story about the number {number}. " * 3}],
                "max_tokens": n_tokens,
                **DRAWN[number % len(DRAWN)],
            }
            for number in range(n_streams)
        ]
        for _ in range(2):  # what comes first takes longer
            began = time.monotonic()
            streams = self._begun()
            assert not endless(streams), "a stream had no end before anything died"
            self._seconds = time.monotonic() - began
        assert not [stream for stream in streams if stream.error], "an answer failed before anything died"
        self.undisturbed = [stream.text for stream in streams]

    def under(self, death: Death) -> list[Stream]:
        """Their streams, where something dies meanwhile: all of them over, or waited for in vain."""
        from support.ray_streams import endless, kill

        row = self._boxes.rows()[death.node]
        streams = self._begun()
        time.sleep(death.share * self._seconds)
        kill(self._boxes, death.part, row)
        endless(streams)
        return streams

    def wait_for_an_answer(self) -> None:
        """The proxy may not be back when the boxes are."""
        with self._boxes.client() as client:
            body = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
            client.post("/v1/chat/completions", json=body).raise_for_status()

    def _begun(self) -> list[Stream]:
        from support.ray_streams import Stream

        return [Stream(self._boxes, body, f"stream {number}") for number, body in enumerate(self._bodies)]


class Judge:
    """Counts what became of streams.

    Attributes:
        wrong: what must not be.
    """

    def __init__(self, undisturbed: Sequence[str]) -> None:
        self._undisturbed = undisturbed
        self._pauses: dict[str, list[float]] = defaultdict(list)  # the longest of each death, by part
        self._ends: Counter[str] = Counter()
        self._n_endless = 0
        self._n_touched = 0  # streams of boxes that did not die
        self._n_begun_same = 0  # streams that were resumed, and whose text until then was that of the control
        self._n_went_on_same = 0  # of these, all of whose text was
        self.wrong: list[str] = []

    def sees(self, death: Death, streams: Sequence[Stream]) -> str:
        """All streams of one death."""
        ends = Counter(self._end(number, stream) for number, stream in enumerate(streams))
        self._ends.update(ends)
        longest = max(stream.longest_pause_s for stream in streams)
        self._pauses[death.part].append(longest)
        if longest > LONGEST_S:
            self.wrong.append(f"{death}: a stream was silent for {longest:.1f} s")
        for stream in streams:
            if not (stream.ended or stream.error):
                self._n_endless += 1
                self.wrong.append(f"{death}: a stream of {stream.node} had no end ({stream.broke or 'silent'})")
            if death.part != "proxy" and stream.node != death.node and (stream.error or stream.n_resumed):
                self._n_touched += 1
                self.wrong.append(f"{death}: a stream of {stream.node} was touched, too ({stream.error})")
        return f"{death.part} of {death.node} at {death.share:.2f}: silent for {longest:.1f} s at most; {dict(ends)}"

    def _end(self, number: int, stream: Stream) -> str:
        control = self._undisturbed[number]
        is_same = stream.text == control and not stream.error
        if not (stream.ended or stream.error):
            return "no end"
        if DRAWN[number % len(DRAWN)] == {}:
            return stream.error or ("drawn freely, resumed" if stream.n_resumed else "drawn freely, whole")
        how = _RESUMED if stream.n_resumed else ""
        if how and control.startswith(stream.sent):
            self._n_begun_same += 1
            self._n_went_on_same += is_same
        return how + (stream.error or (_SAME if is_same else _OTHER))

    def report(self) -> dict[str, Any]:
        """Figures; `wrong` is complete behind it."""
        resumed = sum(n for end, n in self._ends.items() if end.startswith(_RESUMED))
        whole = _share(self._ends[f"{_RESUMED}{_SAME}"], resumed)
        exact = _share(self._n_went_on_same, self._n_begun_same)
        untouched = self._ends[_SAME] + self._ends[_OTHER]
        if exact is not None and exact < EXACT:
            self.wrong.append(f"{exact:.3f} of the streams that went on elsewhere were what they would have been")
        longest = {part: round(max(pauses), 2) for part, pauses in self._pauses.items()}
        return {
            "deaths": {part: len(pauses) for part, pauses in self._pauses.items()},
            "streams": self._ends.total(),
            "ends": dict(self._ends),
            "without_an_end": self._n_endless,
            "of_other_boxes_touched": self._n_touched,
            "resumed": resumed,
            "resumed_exact": whole,
            # Only what was rounded otherwise until then could differ until then.
            "resumed_after_the_same_text": self._n_begun_same,
            "of_these_exact": exact,
            # The control: an engine may round otherwise where others share its batch.
            "not_resumed": untouched,
            "not_resumed_exact": _share(self._ends[_SAME], untouched),
            "longest_pause_s": max(longest.values(), default=None),
            "longest_pause_s_by_part": longest,
        }


def _share(n: int, of: int) -> float | None:
    return n / of if of else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="echo", help="echo, an id or a file")
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=120, help="of an answer")
    parser.add_argument("--ctx", type=int, default=1024, help="tokens of a slot")
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--parts", nargs="+", default=("worker", "replica", "node", "proxy"), help="what dies")
    options = parser.parse_args(arguments)

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.ray_cluster import Boxes

    began = time.monotonic()
    boxes = Boxes(tempfile.mkdtemp(prefix="ray-kills-", dir="/tmp"), Path(os.environ["EDGELLM_HOME"]))
    try:
        boxes.add(*NODES, EDGELLM_ECHO_STEP_S="0.03")
        boxes.serve(options.model, slots=4, ctx=options.ctx, threads=1)
        clients = Clients(boxes, options.streams, options.tokens)
        judge = Judge(clients.undisturbed)
        try:
            for death in deaths(options.seed, options.moments, options.parts):
                print(judge.sees(death, clients.under(death)), file=sys.stderr, flush=True)
                boxes.restore(NODES)
                boxes.wait_for(len(NODES))
                clients.wait_for_an_answer()
        finally:  # what was seen until then
            report = {**vars(options), **judge.report(), "seconds": round(time.monotonic() - began)}
            print(json.dumps(report, indent=1), flush=True)
            print("\n".join(judge.wrong) or "nothing is wrong", file=sys.stderr)
    finally:
        boxes.close()
    return bool(judge.wrong)


if __name__ == "__main__":
    sys.exit(main())
