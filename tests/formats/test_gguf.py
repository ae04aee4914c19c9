"""Sound files are read whole: every value type, both byte orders, split sets, and the two real models."""

import math
import os
import struct
from dataclasses import replace

import pytest
from support import gguf_writer as w
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.cursor import MAX_NUMBERS, SHORT_TEXT_BYTES, Incomplete, LongArray
from edgellm.formats.gguf.header import parse_gguf

SCALARS = [
    (w.UINT8, 255), (w.INT8, -128), (w.UINT16, 65535), (w.INT16, -32768), (w.UINT32, 2**32 - 1), (w.INT32, -(2**31)),
    (w.FLOAT32, 0.5), (w.BOOL, 1), (w.UINT64, 2**64 - 1), (w.INT64, -(2**63)), (w.FLOAT64, -1e300),
]  # fmt: skip


def read(file):
    data = file.build()
    return parse_gguf(data, file_bytes=len(data), where="made")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type(order, version):
    keys = [(f"k{kind}", kind, value) for kind, value in SCALARS]
    keys += [(f"a{kind}", w.ARRAY, (kind, [value, value])) for kind, value in SCALARS]
    keys += [("text", w.STRING, "é"), ("texts", w.ARRAY, (w.STRING, ["a", "", "é"])), ("none", w.ARRAY, (w.UINT8, []))]

    header = read(w.Gguf(keys, order=order, version=version))

    assert (header.version, header.big_endian) == (version, order == ">")
    assert [header.metadata[f"k{kind}"] for kind, _ in SCALARS] == [value for _, value in SCALARS]
    assert [header.metadata[f"a{kind}"] for kind, _ in SCALARS] == [(value, value) for _, value in SCALARS]
    assert header.metadata["k7"] is True
    assert (header.metadata["text"], header.metadata["texts"], header.metadata["none"]) == ("é", ("a", "", "é"), ())


def test_infinity_is_a_value():
    assert read(w.Gguf([("limit", w.FLOAT32, math.inf)])).metadata["limit"] == math.inf


def test_text_that_is_no_utf8_is_shown_with_marks():
    assert read(w.Gguf([("name", w.STRING, struct.pack("<Q", 3) + b"a\xffb")])).metadata["name"] == "a�b"


def test_tensors_lie_where_the_file_says():
    header = read(w.model())

    assert [(t.name, t.dims, t.type.name, t.n_bytes) for t in header.tensors] == [
        ("token_embd.weight", (64, 16), "Q8_0", 1088),
        ("output_norm.weight", (64,), "F32", 256),
    ]
    assert header.data_offset % 32 == 0
    assert [t.offset for t in header.tensors] == [header.data_offset, header.data_offset + 1088]
    assert header.tensor_bytes == 1344
    assert header.file_bytes == header.data_offset + 1344


def test_alignment_of_the_file_holds():
    file = w.model()
    header = read(replace(file, keys=[*file.keys, ("general.alignment", w.UINT32, 1024)], alignment=1024))

    assert header.alignment == 1024
    assert [t.offset % 1024 for t in header.tensors] == [0, 0]


def test_a_tensor_without_dimensions_has_one_element():
    assert read(w.Gguf(tensors=[w.Tensor("scale", (), w.F32, 4)])).tensors[0].n_bytes == 4


def test_i2_s_has_one_scale_for_the_whole_tensor():
    assert read(w.Gguf(tensors=[w.Tensor("w", (256, 4), w.I2_S, 1024 // 4 + 32)])).tensors[0].n_bytes == 288


def test_bytes_after_the_last_tensor_do_no_harm():
    data = w.model().build() + b"more"

    assert parse_gguf(data, file_bytes=len(data), where="made").tensor_bytes == 1344


@pytest.mark.parametrize("order", ["<", ">"])
def test_long_arrays_stay_in_the_file_until_asked_for(tmp_path, order):
    texts = [f"t{i}" for i in range(5000)]
    keys = [
        ("texts", w.ARRAY, (w.STRING, texts)),
        ("rates", w.ARRAY, (w.FLOAT32, [0.5] * 2000)),
        ("few", w.ARRAY, (w.UINT8, [1])),
    ]
    path = w.Gguf(keys, order=order).write(tmp_path / "x.gguf")
    header = reader.read_header(path)

    assert isinstance(header.metadata["texts"], LongArray)
    assert (header.metadata["texts"].type, header.metadata["texts"].length) == ("string", 5000)
    assert reader.read_array(header, "texts") == tuple(text.encode() for text in texts)
    assert reader.read_array(header, "rates") == (0.5,) * 2000
    assert reader.read_array(header, "few") == (1,)


def test_a_long_text_stays_in_the_file(tmp_path):
    long = "x" * (SHORT_TEXT_BYTES + 1)
    header = reader.read_header(w.Gguf([("tokenizer.json", w.STRING, long)]).write(tmp_path / "x.gguf"))

    assert header.metadata["tokenizer.json"].length == len(long)
    assert bytes(reader.read_array(header, "tokenizer.json")) == long.encode()


def test_an_array_of_a_file_that_was_replaced_is_refused(tmp_path):
    path = w.Gguf([("texts", w.ARRAY, (w.STRING, ["a"] * 2000))]).write(tmp_path / "x.gguf")
    header = reader.read_header(path)
    path.write_bytes(b"GGUF")

    with refuses(BadArtifact):
        reader.read_array(header, "texts")


def test_the_beginning_of_a_file_is_enough_where_its_length_is_known():
    data = w.model().build()
    header = parse_gguf(data, file_bytes=len(data), where="made")

    beginning = parse_gguf(data[: header.data_offset], file_bytes=len(data), where="made")

    assert beginning.tensors == header.tensors


def test_a_beginning_that_ends_inside_the_header_says_how_much_is_needed():
    file = w.model()
    file.keys += [("texts", w.ARRAY, (w.STRING, ["abc"] * 200)), ("rates", w.ARRAY, (w.FLOAT32, [0.5] * 200))]
    data = file.build()
    end = parse_gguf(data, file_bytes=len(data), where="made").data_offset

    have = 5
    tries = 0
    while have < len(file.header()):
        with pytest.raises(Incomplete) as caught:
            parse_gguf(data[:have], file_bytes=len(data), where="made")
        assert have < caught.value.needed <= end
        have = caught.value.needed
        tries += 1
    assert tries > 50
    assert parse_gguf(data[:have], file_bytes=len(data), where="made").tensor_bytes == 1344


def test_an_array_at_the_end_of_a_beginning_must_be_there():
    file = w.Gguf([("rates", w.ARRAY, (w.FLOAT32, [0.5] * 2000))])
    data = file.build()

    with refuses(Incomplete, needed=8053):
        parse_gguf(data[:-100], file_bytes=len(data) + 10**6, where="made")


def test_a_length_that_leaves_the_whole_file_is_damage_not_a_short_beginning():
    file = w.Gguf([("texts", w.ARRAY, (w.STRING, ["a"], 1000))])
    data = file.build()

    with refuses(BadArtifact) as caught:
        parse_gguf(data, file_bytes=len(data) + 100, where="made")
    assert not isinstance(caught.value, Incomplete)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (w.STRING, struct.pack("<Q", 2**26)),
        (w.ARRAY, struct.pack("<IQ", w.UINT8, MAX_NUMBERS + 1)),
    ],
    ids=["bytes", "numbers"],
)
def test_keys_that_native_code_would_hold_are_bounded_together(kind, value):
    data = w.Gguf([("rates", kind, value)]).build()

    with refuses(BadArtifact):
        parse_gguf(data, file_bytes=2**30, where="made")


@pytest.mark.parametrize("path", ["folder", "missing.gguf", "\0"])
def test_what_cannot_be_opened_is_refused(tmp_path, path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadArtifact):
        reader.read_header(f"{tmp_path}/{path}")


def split(tmp_path, n, **changed):
    """A sound set of `n` parts; `changed` maps a part's index to its split keys."""
    for no in range(n):
        place = changed.get(f"part{no}", (no, n))
        keys = [
            ("split.no", w.UINT16, place[0]),
            ("split.count", w.UINT16, place[1]),
            ("split.tensors.count", w.INT32, n + 1),
        ]
        tensors = [w.Tensor(f"blk.{no}.weight", (64,), w.F32, 256)]
        if no == 0:
            keys, tensors = [*w.model_keys(), *keys], [w.Tensor("token_embd.weight", (64, 16), w.F32, 4096), *tensors]
        w.Gguf(keys, tensors).write(tmp_path / f"m-{no + 1:05d}-of-{n:05d}.gguf")
    return tmp_path


@pytest.mark.parametrize("given", [1, 3])
def test_a_split_model_is_read_from_any_part(tmp_path, given):
    model = reader.read_model(split(tmp_path, 3) / f"m-{given:05d}-of-00003.gguf")

    assert [os.path.basename(path) for path in model.paths] == [f"m-{no:05d}-of-00003.gguf" for no in (1, 2, 3)]
    assert len(model.tensors) == 4
    assert model.tensor_bytes == 4096 + 3 * 256
    assert model.file_bytes == sum(os.path.getsize(path) for path in model.paths)
    assert reader.shape(model.header, model.tensors).n_vocab == 16


def test_parts_take_no_more_memory_than_one_file_may(tmp_path, monkeypatch):
    path = split(tmp_path, 3) / "m-00001-of-00003.gguf"
    assert [len(part.metadata) for part in reader.read_model(path).parts[1:]] == [2, 2]

    monkeypatch.setattr(reader, "MAX_TENSORS", 3)
    with refuses(BadArtifact):
        reader.read_model(path)


def test_a_missing_part_is_named(tmp_path):
    (split(tmp_path, 3) / "m-00002-of-00003.gguf").unlink()
    with refuses(BadArtifact):
        reader.read_model(tmp_path / "m-00001-of-00003.gguf")


@pytest.mark.parametrize("said", [(0, 3), (1, 4), (2, 3)])
def test_a_part_that_says_another_place_is_refused(tmp_path, said):
    with refuses(BadArtifact):
        reader.read_model(split(tmp_path, 3, part1=said) / "m-00001-of-00003.gguf")


def test_a_part_under_another_name_is_refused(tmp_path):
    (split(tmp_path, 3) / "m-00001-of-00003.gguf").rename(tmp_path / "model.gguf")
    with refuses(BadArtifact):
        reader.read_model(tmp_path / "model.gguf")


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    split(tmp_path, 2)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(
        w.Gguf(
            [("split.no", w.UINT16, 1), ("split.count", w.UINT16, 2)], [w.Tensor("blk.0.weight", (64,), w.F32, 256)]
        ).build()
    )
    with refuses(BadArtifact):
        reader.read_model(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize("name", ["m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-00001-of-99999.gguf"])
def test_impossible_part_names_are_refused(tmp_path, name):
    w.model().write(tmp_path / name)
    with refuses(BadArtifact):
        reader.read_model(tmp_path / name)


@pytest.mark.parametrize(
    ("file_type", "types", "name"),
    [(15, [w.F32], "Q4_K_M"), (None, [w.F32, w.Q8_0], "Q8_0"), (9999, [w.Q4_0], "Q4_0"), (40, [w.F32, w.I2_S], "I2_S")],
)
def test_quant_name(file_type, types, name):
    keys = [] if file_type is None else [("general.file_type", w.UINT32, file_type)]
    sizes = {w.F32: 256 * 4, w.Q8_0: 256 * 34 * 16 // 32, w.Q4_0: 144, w.I2_S: 256 // 4 + 32}
    shapes = {w.Q8_0: (256, 16)}
    tensors = [w.Tensor(f"t{t}", shapes.get(t, (256,)), t, sizes[t]) for t in types]

    assert reader.quant_name(read(w.Gguf(keys, tensors))) == name


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [(w.STRING, "{{ x }}", "{{ x }}"), (w.STRING, " ", None), (w.UINT32, 1, None), (w.STRING, "x" * 300_000, None)],
)
def test_chat_template(kind, value, found):
    assert reader.chat_template(read(w.Gguf([("tokenizer.chat_template", kind, value)]))) == found


def test_a_vocabulary_of_262144_is_left_in_the_file(tmp_path):
    tokens = b"".join(struct.pack("<Q", 7) + b"%07d" % i for i in range(262_144))
    path = w.Gguf([("tokens", w.ARRAY, struct.pack("<IQ", w.STRING, 262_144) + tokens)]).write(tmp_path / "x.gguf")

    header = reader.read_header(path)
    vocabulary = header.metadata["tokens"]

    assert isinstance(vocabulary, LongArray)
    assert reader.read_array(header, "tokens")[262_143] == b"0262143"


@pytest.mark.model
def test_smollm2(smollm2):
    model = reader.read_model(smollm2)

    assert (len(model.tensors), model.tensor_bytes, model.file_bytes) == (272, 96_576_768, 98_362_432)
    assert reader.chat_template(model.header) is not None
    assert reader.read_array(model.header, "tokenizer.ggml.tokens")[:3] == (
        b"<|endoftext|>",
        b"<|im_start|>",
        b"<|im_end|>",
    )


@pytest.mark.model
def test_gemma3(gemma3):
    model = reader.read_model(gemma3)

    assert (len(model.tensors), model.tensor_bytes, model.file_bytes) == (236, 246_587_904, 253_113_024)
    assert reader.quant_name(model.header) == "Q4_K_M"
    assert reader.chat_template(model.header) is None
