"""What was read of an answer: parts of text, of thoughts and of calls, in order."""

from __future__ import annotations

from typing import NamedTuple

from edgellm.types.event import DeltaKind


class Part(NamedTuple):
    """A "call_name" is whole. The "call_arguments" of a call, joined, are JSON, valid where the call is whole."""

    kind: DeltaKind
    text: str
    call: int = 0  # which of the answer's calls, from 0 on


class Output:
    """Gathers parts. White space around thoughts is dropped, and so is that between text and a call."""

    def __init__(self, *, trims: bool = True) -> None:
        """`trims`: white space at the end of text waits, because a call may follow."""
        self.thinking = False
        self.silent = True  # there was no text yet
        self.n_calls = 0
        self._trims = trims
        self._parts: list[tuple[DeltaKind, int, list[str]]] = []  # kind, call, pieces
        self._space: list[str] = []  # that waits for what follows it
        self._fresh = False  # white space that comes now is dropped

    def think(self, *, begun: bool = False) -> None:
        """`begun`: words of the thought stand in the prompt, and white space behind them counts."""
        self._turn(thinking=True)
        self._fresh = not begun

    def answer(self) -> None:
        """A thought ended. In the middle of text, white space behind it counts."""
        self._turn(thinking=False)
        self._fresh = self.silent

    def text(self, piece: str) -> None:
        self._write("text", piece, holds=self._trims or (self.silent and piece.isspace()))
        self.silent = self.silent and not piece.strip()

    def reasoning(self, piece: str) -> None:
        self._write("reasoning", piece, holds=True)

    def say(self, piece: str) -> None:
        """Text or a thought, whichever it is now."""
        (self.reasoning if self.thinking else self.text)(piece)

    def call(self, name: str) -> None:
        """A call begins. It ends a thought."""
        self._turn(thinking=False)
        self.n_calls += 1
        self._add("call_name", name)

    def arguments(self, piece: str) -> None:
        if piece:
            self._add("call_arguments", piece)

    def take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return [Part(kind, "".join(pieces), call) for kind, call, pieces in parts]

    def finish(self) -> list[Part]:
        if not self.thinking and self._space:
            self._add("text", "".join(self._space))
        self._space = []
        return self.take()

    def _turn(self, *, thinking: bool) -> None:
        self.thinking = thinking
        self._space = []
        self._fresh = True

    def _write(self, kind: DeltaKind, piece: str, *, holds: bool) -> None:
        if self._fresh:
            piece = piece.lstrip()
        if not piece:
            return
        self._fresh = False
        said = piece.rstrip() if holds else piece
        if said:
            self._add(kind, "".join([*self._space, said]))
            self._space = []
        if len(said) < len(piece):
            self._space.append(piece[len(said) :])

    def _add(self, kind: DeltaKind, piece: str) -> None:
        call = max(0, self.n_calls - 1) if kind.startswith("call") else 0
        if kind != "call_name" and self._parts and self._parts[-1][:2] == (kind, call):
            self._parts[-1][2].append(piece)
        else:
            self._parts.append((kind, call, [piece]))
