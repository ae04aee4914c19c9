"""The engine against the same model in numpy, and what it does where something goes wrong."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from edgellm_onnx.options import KNOWN, VALUES, Options
from edgellm_onnx.plugin import OnnxBackend
from edgellm_onnx.providers import CPU, choose
from onnx import numpy_helper
from support import onnx_models
from support.onnx_models import KINDS, Tiny
from support.refusals import refuses

from edgellm.contract.engine import SlotInput
from edgellm.errors import BackendUnavailable, BadArtifact, StepFailed, UnsupportedArtifact, UsageError
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

TOKENS = np.random.default_rng(3).integers(2, 300, 60).tolist()
TINY = Tiny(layers=2)


def opened(folder, n_slots=4, n_ctx=128, n_batch=64, **options):
    settings = Settings(n_ctx, n_slots, n_batch=n_batch, options=tuple(options.items()))
    return OnnxBackend().open(LaunchPlan("onnx", Artifact("onnx", (str(folder),), "tiny"), settings))


@pytest.fixture(scope="module")
def golden():
    return TINY.logits(TOKENS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tiny", "allowed"),
    [(TINY, 1e-5), (Tiny(num_logits=True), 1e-5), (Tiny(external=True), 1e-5), (Tiny(bits=4), 1e-5),
     (Tiny(dtype="float16"), 0.02)],
    ids=["float32", "num_logits", "external", "4 bits", "float16"],
)  # fmt: skip
def test_logits_are_those_of_the_same_model_in_numpy(tmp_path, kind, tiny, allowed):
    engine = opened(KINDS[kind](tmp_path, tiny))
    expected = tiny.logits(TOKENS)

    found = [engine.step([SlotInput(1, 0, tuple(TOKENS[:30]), 30)])[0].copy()]
    found.append(engine.step([SlotInput(1, 30, tuple(TOKENS[30:50]), 20)])[0].copy())
    found += [engine.step([SlotInput(1, at, (TOKENS[at],), 1)])[0].copy() for at in range(50, 60)]

    assert np.abs(np.concatenate(found) - expected).max() < allowed
    assert np.abs(expected).max() > 2


@pytest.mark.parametrize("kind", KINDS)
def test_slots_of_different_lengths_in_one_step(tmp_path, golden, kind):
    """Prompts, chunks, single tokens and idle slots between them, and rows that nobody wants."""
    engine = opened(KINDS[kind](tmp_path, TINY))
    lengths = [0, 11, 40, 3]
    for slot, length in enumerate(lengths):
        if length:
            engine.step([SlotInput(slot, 0, tuple(TOKENS[:length]), 0)])
    steps = [
        [(0, 17, 1), (2, 1, 1), (3, 1, 1)],  # a prompt beside two that decode
        [(1, 1, 1), (3, 1, 1)],  # an idle slot between two
        [(3, 1, 1), (0, 1, 1), (1, 1, 0), (2, 1, 1)],  # all, in another order, one of them without logits
        [(0, 2, 2), (2, 5, 3), (1, 1, 1)],  # drafts
        [(0, 1, 1), (3, 1, 1)],
    ]
    for step in steps:
        batch = [SlotInput(s, lengths[s], tuple(TOKENS[lengths[s] : lengths[s] + n]), rows) for s, n, rows in step]
        found = iter([rows.copy() for rows in engine.step(batch)])
        for slot, n, rows in step:
            lengths[slot] += n
            if rows:
                expected = golden[lengths[slot] - rows : lengths[slot]]
                assert np.abs(next(found) - expected).max() < 1e-5


def test_a_full_slot_between_two_others_takes_no_part(tmp_path, golden):
    """A slot between two that decode has a token computed behind its last; a full one has no room for it."""
    engine = opened(onnx_models.shared(tmp_path, TINY), n_slots=3, n_ctx=32)
    engine.step([SlotInput(1, 0, tuple(TOKENS[:31]), 0)])
    assert engine._spans([0, 2]) == [range(3)]
    engine.step([SlotInput(1, 31, (TOKENS[31],), 0)])
    assert engine._spans([0, 2]) == [range(1), range(2, 3)]
    for slot in (0, 2):
        engine.step([SlotInput(slot, 0, tuple(TOKENS[:5]), 0)])
    found = engine.step([SlotInput(0, 5, (TOKENS[5],), 1), SlotInput(2, 5, (TOKENS[5],), 1)])
    assert all(np.abs(rows[0] - golden[5]).max() < 1e-5 for rows in found)


def test_slots_that_are_cut_back_see_nothing_of_what_was(tmp_path, golden):
    engine = opened(onnx_models.shared(tmp_path, TINY), n_slots=2)
    for slot, length in enumerate((50, 40)):
        engine.step([SlotInput(slot, 0, tuple(TOKENS[:length]), 0)])
    engine.step([SlotInput(0, 50, (TOKENS[50],), 1), SlotInput(1, 40, (TOKENS[40],), 1)])
    for slot in (0, 1):
        engine.truncate(slot, 0)
        engine.step([SlotInput(slot, 0, tuple(TOKENS[: 5 + slot]), 0)])
    found = engine.step([SlotInput(0, 5, (TOKENS[5],), 1), SlotInput(1, 6, (TOKENS[6],), 1)])
    assert np.abs(found[0][0] - golden[5]).max() < 1e-5
    assert np.abs(found[1][0] - golden[6]).max() < 1e-5


def test_masks_of_many_widths(tmp_path):
    """Two slots decode past the widths at which their masks are laid out anew."""
    tiny = Tiny(layers=1, positions=640)
    tokens = np.random.default_rng(5).integers(2, 300, 600).tolist()
    expected = tiny.logits(tokens)
    engine = opened(onnx_models.shared(tmp_path, tiny), n_slots=2, n_ctx=640, n_batch=600)
    starts = (250, 505)
    for slot, length in enumerate(starts):
        engine.step([SlotInput(slot, 0, tuple(tokens[:length]), 0)])
    for step in range(20):
        batch = [SlotInput(slot, at + step, (tokens[at + step],), 1) for slot, at in enumerate(starts)]
        for rows, at in zip(engine.step(batch), starts, strict=True):
            assert np.abs(rows[0] - expected[at + step]).max() < 1e-5


@pytest.mark.parametrize("kind", ["shared", "growing"])
def test_a_prompt_in_pieces_where_all_rows_would_take_too_much(tmp_path, monkeypatch, golden, kind):
    monkeypatch.setattr("edgellm_onnx.footprint.ROOM_BYTES", 7 * 4 * TINY.vocab)
    engine = opened(KINDS[kind](tmp_path, TINY))
    found = engine.step([SlotInput(0, 0, tuple(TOKENS), 20)])[0]
    assert np.abs(found - golden[40:]).max() < 1e-5


@pytest.mark.parametrize("kind", ["shared", "growing"])
def test_a_step_that_fails_empties_its_slots(tmp_path, golden, kind):
    """The graph's embedding has fewer rows than its logits have columns: the last tokens cannot be looked up."""
    folder = KINDS[kind](tmp_path, TINY)
    model = onnx.load(folder / "model.onnx")
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "embed")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:-2], "embed"))
    onnx.save(model, folder / "model.onnx")
    engine = opened(folder, n_slots=2)
    engine.step([SlotInput(0, 0, tuple(TOKENS[:3]), 0), SlotInput(1, 0, tuple(TOKENS[:3]), 0)])

    with refuses(StepFailed, lost_slots=(0,), varies="Error in.*(?=Gather)|(?<=Gather).*"):
        engine.step([SlotInput(0, 3, (303, 5), 1)])

    assert np.abs(engine.step([SlotInput(0, 0, tuple(TOKENS[:3]), 1)])[0] - golden[2]).max() < 1e-5
    assert np.abs(engine.step([SlotInput(1, 3, (TOKENS[3],), 1)])[0] - golden[3]).max() < 1e-5


def test_a_context_beyond_the_graph_s_angles(tmp_path):
    with refuses(UnsupportedArtifact):
        opened(onnx_models.shared(tmp_path, Tiny(positions=64)))


def test_a_provider_that_is_not_there_is_told_and_replaced(tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "edgellm.onnx"):
        engine = opened(onnx_models.shared(tmp_path), provider="cuda")
    assert "has no CUDAExecutionProvider (pip install onnxruntime-gpu); computing on the CPU" in caplog.text
    assert "the CPU, because provider=cuda" in engine.info.details["provider"]
    assert engine.info.device == "cpu"


def test_a_provider_that_does_not_start_is_told_and_replaced(tmp_path, caplog, monkeypatch):
    """onnxruntime is told to use a provider that it does not have, as a broken installation does: it refuses."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["QNNExecutionProvider", CPU])
    folder = onnx_models.shared(tmp_path)
    with caplog.at_level(logging.ERROR, "edgellm.onnx"), pytest.warns(UserWarning, match="not in available provider"):
        engine = opened(folder, provider="qnn")
    assert "QNNExecutionProvider did not start; onnxruntime took CPUExecutionProvider" in caplog.text
    assert len(engine.step([SlotInput(0, 0, (5,), 1)])) == 1


def test_a_provider_that_raises_is_told_and_replaced(tmp_path, caplog, monkeypatch):
    """Azure's provider is in every wheel and refuses graphs; whatever another raises is handled alike."""
    import onnxruntime
    from edgellm_onnx import session

    made = session._session

    def broken(graph, options, providers):
        if providers != (CPU,):
            # What onnxruntime really raises where a library of a provider cannot be loaded.
            raise onnxruntime.capi.onnxruntime_pybind11_state.EPFail("libcudart.so.13: cannot open shared object file")
        return made(graph, options, providers)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(session, "_session", broken)
    with caplog.at_level(logging.ERROR, "edgellm.onnx"):
        engine = opened(onnx_models.shared(tmp_path), provider="cuda")
    assert "CUDAExecutionProvider does not start (EPFail: libcudart.so.13" in caplog.text
    assert engine.info.details["provider"].startswith("CPUExecutionProvider: the CPU, because CUDAExecutionProvider")


def test_the_reason_names_what_else_is_installed():
    assert "OpenVINO" not in choose("auto", [CPU]).reason
    assert "openvino (provider=NAME)" in choose("auto", ["OpenVINOExecutionProvider", CPU]).reason
    assert choose("openvino", ["OpenVINOExecutionProvider", CPU]).providers == ("OpenVINOExecutionProvider", CPU)


@pytest.mark.parametrize("options", [dict([pair]) for name in VALUES for pair in ((name, v) for v in VALUES[name][1:])])
def test_every_option_computes_the_same(tmp_path, golden, options):
    if options.get("provider") in (None, "cpu"):
        engine = opened(onnx_models.shared(tmp_path, TINY), **options)
        found = engine.step([SlotInput(0, 0, tuple(TOKENS[:20]), 20)])[0]
        assert np.abs(found - golden[:20]).max() < 1e-5


def test_options_that_mean_nothing():
    with refuses(UsageError):
        OnnxBackend().check_options([("speed", "high")])
    with refuses(UsageError):
        Options.parse([("spin", "often")])
    assert KNOWN.keys() == VALUES.keys()


def test_layers_on_a_gpu_are_refused(tmp_path):
    plan = LaunchPlan("onnx", Artifact("onnx", (str(tmp_path),), "t"), Settings(128, gpu_layers=3))
    with refuses(BackendUnavailable):
        OnnxBackend().open(plan)


def test_a_tokenizer_of_another_model(tmp_path):
    folder = onnx_models.shared(tmp_path, Tiny(vocab=64))
    with refuses(BadArtifact):
        opened(folder)


def test_an_end_that_is_no_token(tmp_path):
    folder = onnx_models.growing(tmp_path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"eos_token_id": 1', '"eos_token_id": 99999'))
    with refuses(BadArtifact):
        opened(folder)


def test_a_disk_that_fails_is_no_missing_library(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("edgellm_onnx.opening.open_engine", fail)
    with pytest.raises(OSError) as caught:
        opened(tmp_path)
    assert caught.value.errno == 5
