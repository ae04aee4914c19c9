"""A summary says what a file is, and is read again exactly when the file changed."""

import os
from dataclasses import replace

import pytest
from support import gguf_writer as w
from support.refusals import refuses

from edgellm import settings
from edgellm.errors import BadArtifact
from edgellm.formats.gguf import summary
from edgellm.formats.gguf.summary import Summary, summary_of


@pytest.mark.model
def test_smollm2(smollm2):
    facts = summary_of(smollm2)

    assert replace(facts, shape=None, layers=None) == Summary(
        version=3, big_endian=False, role="model", architecture="llama", name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        license="apache-2.0", quant="Q4_1", types={"Q4_1": 210, "F32": 61, "Q8_0": 1}, params=134_515_008,
        tensor_bytes=96_576_768, file_bytes=98_362_432, ctx_train=8192, has_template=True,
    )  # fmt: skip
    assert (facts.shape.n_layer, facts.shape.n_vocab) == (30, 49_152)
    # The embedding table is the output table, too.
    assert sum(facts.layers.blocks) + facts.layers.output == facts.tensor_bytes


def split(folder):
    for no in range(2):
        keys = [("split.no", w.UINT16, no), ("split.count", w.UINT16, 2)]
        file = w.Gguf([*(w.model_keys() if no == 0 else []), *keys], [w.Tensor(f"t{no}", (64,), w.F32, 256)])
        file.write(folder / f"m-{no + 1:05d}-of-00002.gguf")
    return folder / "m-00001-of-00002.gguf"


@pytest.mark.parametrize("changed", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
def test_it_is_read_again_where_any_part_changed(tmp_path, monkeypatch, changed):
    path = split(tmp_path)
    reads = []
    read_model = summary.reader.read_model
    monkeypatch.setattr(summary.reader, "read_model", lambda p: reads.append(p) or read_model(p))

    first = summary_of(path)
    assert summary_of(str(path)) == first
    assert (len(reads), first.n_parts, first.params) == (1, 2, 128)

    os.utime(tmp_path / changed, ns=(1, 1))
    assert summary_of(path) == first
    assert len(reads) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[9, 1, 2, 3]"])
def test_a_damaged_cache_is_no_error(tmp_path, content):
    path = w.model().write(tmp_path / "m.gguf")
    first = summary_of(path)
    (cache_file,) = (settings.current().cache_dir / "headers").iterdir()
    cache_file.write_bytes(content)

    assert summary_of(path) == first
    assert cache_file.read_bytes() != content


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, own_home):
    (own_home / "cache" / "headers").write_text("a file where the folder should be")

    assert summary_of(w.model().write(tmp_path / "m.gguf")).quant == "Q8_0"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_byte_orders(tmp_path, order, version):
    facts = summary_of(replace(w.model(), order=order, version=version).write(tmp_path / "m.gguf"))

    assert (facts.version, facts.big_endian, facts.shape.n_layer) == (version, order == ">", 2)


def test_what_is_no_language_model_has_no_shape(tmp_path):
    adapter = w.model()
    adapter.keys.append(("general.type", w.STRING, "adapter"))
    vocabulary = replace(w.model(), tensors=[])

    assert not summary_of(adapter.write(tmp_path / "a.gguf")).is_model
    assert not summary_of(vocabulary.write(tmp_path / "v.gguf")).is_model


def test_a_text_of_the_file_is_kept_short(tmp_path):
    file = w.model()
    file.keys.append(("general.name", w.STRING, "x" * 100_000))

    assert len(summary_of(file.write(tmp_path / "m.gguf")).name) == 256


def test_a_missing_file_is_refused(tmp_path):
    with refuses(BadArtifact):
        summary_of(tmp_path / "none.gguf")


def test_texts_are_in_one_line(tmp_path):
    made = w.model()
    made.keys += [("general.license", w.STRING, "mit\nserving on http://x\r\u2028y")]

    assert summary_of(made.write(tmp_path / "m.gguf")).license == "mit serving on http://x y"
