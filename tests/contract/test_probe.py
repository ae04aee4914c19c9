"""What a probe finds is asked for once, and kept where there is a place for it."""

from __future__ import annotations

from pathlib import Path

from edgellm.contract.probe import kept, read_kept


class Probe:
    def __init__(self, *, lasts: bool = True) -> None:
        self.n_asked, self._lasts = 0, lasts

    def __call__(self) -> tuple[str, bool]:
        self.n_asked += 1
        return "it loads", self._lasts


def test_an_answer_is_kept_in_a_file(tmp_path: Path) -> None:
    probe, path = Probe(), tmp_path / "cache" / "verdict.json"

    assert [kept(path, str, probe), kept(path, str, probe)] == ["it loads"] * 2
    assert probe.n_asked == 1
    path.unlink()
    assert kept(path, str, probe) == "it loads"
    assert probe.n_asked == 2


def test_where_nothing_can_be_written_it_is_asked_once(tmp_path: Path) -> None:
    probe, path = Probe(), tmp_path / "file" / "verdict.json"
    path.parent.write_text("no folder")

    assert [kept(path, str, probe), kept(path, str, probe)] == ["it loads"] * 2
    assert probe.n_asked == 1


def test_what_does_not_last_is_asked_once_a_process(tmp_path: Path) -> None:
    probe, path = Probe(lasts=False), tmp_path / "verdict.json"

    assert [kept(path, str, probe) for _ in range(2)] == ["it loads"] * 2
    assert read_kept(path, str) == "it loads"
    assert (probe.n_asked, path.exists()) == (1, False)
