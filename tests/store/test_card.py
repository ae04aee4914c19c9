"""A row of the catalog out of a header that lies elsewhere: which, what it says, and how little is fetched for it."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from support import gguf_writer as w
from support.refusals import refuses
from support.store_server import sha256

from edgellm.errors import BadArtifact, IntegrityError, SourceError, UnknownModel, UnsupportedArtifact
from edgellm.store.card import HEADER, card_of, local_card, quant_in, verified
from edgellm.store.library import Library
from edgellm.types.model import ModelFile


def test_what_a_header_says(source, models, model_bytes):
    card = card_of(source)

    (file,) = card.files
    assert (card.id, card.family, card.kind, card.ctx_train) == (
        {"hf": "r", "ollama": "tiny-1b"}.get(source.partition(":")[0], "m"), "llama", "base", 256,
    )  # fmt: skip
    assert (file.source, file.quant, file.bytes, file.trust) == (source, "Q8_0", len(model_bytes), HEADER)
    assert file.sha256 == (None if source.startswith("http") else sha256(model_bytes))
    assert card.params == 64 * 16 + 64 + 64 * 4096
    assert (card.shape.n_layer, card.shape.n_vocab) == (2, 16)
    assert models.body_bytes() <= len(model_bytes)  # it is smaller than the first window


def test_what_is_stored_is_described_without_asking(source, models, model_bytes, monkeypatch):
    card = card_of(source)
    Library().fetch(card, card.files[0])
    n_requests = len(models.seen)
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")

    again = card_of(source)

    assert (again.id, again.files[0].source, again.shape) == (card.id, source, card.shape)
    assert len(models.seen) == n_requests


def test_a_template_makes_it_a_model_to_chat_with(models):
    made = w.model()
    made.keys += [("tokenizer.chat_template", w.STRING, "{{ x }}"), ("general.license", w.STRING, "mit")]
    models.files["o/r/x.gguf"] = made.build()

    card = card_of(f"{models.url}/files/o/r/x.gguf")

    assert (card.kind, card.license) == ("chat", "mit")


def test_of_a_repository_every_quantization_is_a_choice(models, model_bytes):
    """One header is read; the sizes of the others are the listing's, less what lies beside the tensors."""
    small = w.model().build()
    models.files |= {
        "o/Tiny-GGUF/tiny-Q8_0.gguf": model_bytes, "o/Tiny-GGUF/tiny-Q4_K_M.gguf": small,
        "o/Tiny-GGUF/mmproj-F16.gguf": b"no", "o/Tiny-GGUF/README.md": b"no", "o/Tiny-GGUF/tiny-odd.gguf": model_bytes,
        "o/Tiny-GGUF/big/tiny-F16-00001-of-00002.gguf": bytes(10_000),
        "o/Tiny-GGUF/big/tiny-F16-00002-of-00002.gguf": bytes(20_000),
        "o/Tiny-GGUF/tiny-Q6_K-00001-of-00002.gguf": bytes(10_000),
    }  # fmt: skip

    card = card_of("hf://o/Tiny-GGUF")

    assert card.id == "tiny"
    assert {(f.source, f.quant, f.bytes) for f in card.files} == {
        ("hf://o/Tiny-GGUF/tiny-Q4_K_M.gguf", "Q8_0", len(small)),  # as its header says, whatever its name
        ("hf://o/Tiny-GGUF/big/tiny-F16-00001-of-00002.gguf", "F16", 30_000),
    }
    assert models.ranges() == [f"bytes=0-{len(small) - 1}"]


def test_of_one_model_in_a_repository_the_quantization_need_not_be_named(models, model_bytes):
    models.files["o/r/m-Q8_0.gguf"] = model_bytes
    file = card_of("hf://o/r").files[0]
    assert file.source == "hf://o/r/m-Q8_0.gguf"

    models.files["o/r/m-F16.gguf"] = model_bytes
    with refuses(UnknownModel):
        Library().fetch(card_of("hf://o/r"), ModelFile("hf://o/r", "Q8_0"))


def test_what_the_hub_cache_has_is_used_from_there(models, model_bytes):
    models.files["o/r/m-Q8_0.gguf"] = model_bytes
    from huggingface_hub import hf_hub_download

    path = hf_hub_download("o/r", "m-Q8_0.gguf")
    sent = models.body_bytes()

    card = card_of("hf://o/r:Q8_0")
    artifact = Library().fetch(card, card.files[0])

    assert card.files[0].source == f"file:{path}"
    assert card.files[0].sha256 == sha256(model_bytes)
    assert artifact.path == path
    assert models.body_bytes() == sent


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(
            w.Gguf([*w.model_keys(), ("general.type", w.STRING, "adapter")], w.model().tensors), id="an adapter"
        ),
        pytest.param(w.Gguf(w.model_keys()), id="a vocabulary"),
    ],
)
def test_what_is_no_language_model_is_refused(models, made):
    models.files["o/r/x.gguf"] = made.build()
    with refuses(UnsupportedArtifact):
        card_of(f"{models.url}/files/o/r/x.gguf")


@pytest.mark.skipif(sys.byteorder == "big", reason="needs a little-endian machine")
def test_a_file_of_the_other_byte_order_is_refused_before_it_is_fetched(models):
    models.files["o/r/x.gguf"] = replace(w.model(), order=">").build()
    with refuses(UnsupportedArtifact):
        card_of(f"{models.url}/files/o/r/x.gguf")


def test_a_header_without_its_keys_is_refused(models):
    models.files["o/r/x.gguf"] = w.Gguf([("general.architecture", w.STRING, "llama")], w.model().tensors).build()
    with refuses(BadArtifact):
        card_of(f"{models.url}/files/o/r/x.gguf")


def test_a_package_is_not_described():
    with refuses(SourceError):
        card_of(f"pypi:a==1/b.gguf#sha256={'0' * 64}")


def test_a_path_and_a_file_uri(tmp_path, model_bytes):
    path = tmp_path / "Some-Model-Q8_0.gguf"
    path.write_bytes(model_bytes)

    assert card_of(str(path)) == card_of(f"file:{path}") == local_card(path)
    assert card_of(str(path)).id == "some-model"


def test_a_row_is_verified_by_the_header(source, models, model_bytes):
    guess = ModelFile(source, "Q8_0", trust="convention")
    card = card_of(source)
    card = type(card)(**{name: getattr(card, name) for name in card.__slots__} | {"files": (guess,), "shape": None})

    read = verified(card, guess)

    (file,) = read.files
    assert (file.bytes, file.trust, read.shape.n_layer) == (len(model_bytes), HEADER, 2)
    assert verified(read, file) is read


@pytest.mark.parametrize(
    "changed", [pytest.param({"bytes": 5}, id="another size"), pytest.param({"sha256": "0" * 64}, id="another hash")]
)
def test_a_row_that_promises_another_file_is_refused_before_it_is_fetched(models, model_bytes, changed):
    models.files["o/r/m-Q8_0.gguf"] = model_bytes
    file = ModelFile("hf://o/r:Q8_0", "Q8_0", **changed)
    with refuses(IntegrityError):
        verified(card_of("hf://o/r:Q8_0"), file)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-0.6B-Q8_0", "Q8_0"), ("m.Q4_K_M", "Q4_K_M"), ("m-q4_k_m", "Q4_K_M"), ("m-UD-Q4_K_XL", ""),
        ("m-BF16", "BF16"), ("Q4_K_M/m", "Q4_K_M"), ("m-IQ4_XS", "IQ4_XS"), ("m-TQ2_0", "TQ2_0"), ("m", ""),
        ("m-Q4_K_Mx", ""), ("f16-m-Q5_0", "Q5_0"),
    ],
)  # fmt: skip
def test_quant_in(name, quant):
    assert quant_in(name) == quant
