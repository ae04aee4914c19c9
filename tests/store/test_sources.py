"""Sources are found by scheme; a plugin adds one and replaces none."""

import threading

import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S

import edgellm.builtin.sources as built_in
from edgellm.contract.registration import checked
from edgellm.contract.source import scheme_of
from edgellm.errors import SourceError
from edgellm.store.sources import registry as under_test
from edgellm.store.sources.local_file import LocalFile
from edgellm.store.sources.registry import source_for, sources, unreachable


class Bucket:
    """The least a plugin's source has."""

    scheme = "s3"

    def __init__(self, reason="", together=None):
        self.reason = reason
        self.together = together
        self.asked_for = None

    def reachable(self, timeout_s, uri=""):
        self.asked_for = uri
        if self.together is not None:
            self.together.wait(PATIENCE_S)  # raises BrokenBarrierError where the others are not asked meanwhile
        return self.reason

    def needs(self, folder, n_bytes):
        return []

    def fetch(self, uri, folder, *, n_bytes, progress):
        return []

    def discard(self, paths):
        pass


class FakePlugins:
    """Calls the hook as plugins do, and keeps what was refused."""

    def __init__(self, *added):
        self.added = added
        self.refused = []

    def call(self, hook, register):
        register = checked(hook, register)
        built_in.register_sources(register)
        for scheme, source in self.added:
            try:
                register(scheme, source)
            except (TypeError, ValueError) as error:
                self.refused.append(str(error))


@pytest.fixture
def with_plugins(monkeypatch):
    """Make plugins register the added sources."""

    def use(*added):
        made = FakePlugins(*added)
        monkeypatch.setattr(under_test, "plugins", lambda: made)
        sources.cache_clear()
        return made

    yield use
    sources.cache_clear()


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("pypi:a==1/b", "pypi"),
        ("hf://o/r", "hf"),
        ("file:/x", "file"),
        ("C:\\x", ""),
        ("/x", ""),
        ("", ""),
        ("Hf://x", ""),
    ],
)
def test_scheme_of(uri, scheme):
    assert scheme_of(uri) == scheme


def test_a_plugin_adds_a_source(with_plugins):
    bucket = Bucket()
    with_plugins(("s3", bucket))

    assert source_for("s3://bucket/x.gguf") is bucket
    assert sorted(sources()) == ["file", "hf", "http", "https", "ollama", "pypi", "s3"]


@pytest.mark.parametrize(
    ("scheme", "source", "says"),
    [
        ("pypi", Bucket(), "already taken"),
        ("S3", Bucket(), "malformed"),
        ("s3", object(), "lacks scheme, reachable, needs, fetch, discard"),
    ],
)
def test_what_a_plugin_may_not_add(with_plugins, scheme, source, says):
    made = with_plugins((scheme, source))

    assert sorted(sources()) == ["file", "hf", "http", "https", "ollama", "pypi"]
    assert says in made.refused[0]


def test_no_source():
    with refuses(SourceError):
        source_for("gopher:x")


def test_all_sources_are_asked_at_once(with_plugins, monkeypatch):
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    together = threading.Barrier(3)
    added = [(name, Bucket(f"{name} is down", together)) for name in ("s3", "s4", "s5")]
    with_plugins(*added)

    reasons = unreachable(5.0, {"s3": "s3://bucket/x"})

    assert reasons == {
        **dict.fromkeys(("hf", "http", "https", "ollama", "pypi"), "EDGELLM_OFFLINE is set"),
        "s3": "s3 is down", "s4": "s4 is down", "s5": "s5 is down",
    }  # fmt: skip
    assert added[0][1].asked_for == "s3://bucket/x"


def test_a_local_file_is_reachable_where_it_exists(tmp_path):
    (tmp_path / "a b.gguf").write_bytes(b"")

    assert LocalFile().reachable(1.0, f"file:{tmp_path}/a b.gguf") == ""
    assert LocalFile().reachable(1.0, f"file://{tmp_path}/a%20b.gguf") == ""
    assert "does not exist" in LocalFile().reachable(1.0, "file:/no/such.gguf")
