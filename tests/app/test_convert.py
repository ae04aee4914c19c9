"""A converter has no more memory than its source explains."""

import dataclasses
import sys

import numpy as np
import pytest
from support.refusals import refuses

from edgellm.app import convert as app_convert
from edgellm.contract.converter import Conversion, Converted
from edgellm.errors import BackendError, UnsupportedArtifact, UsageError
from edgellm.types.model import Artifact

MIB = 1024**2


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of data is Linux's")
def test_what_takes_far_more_memory_than_its_source_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(app_convert, "LEAST_BYTES", 256 * MIB)
    conversion = Conversion(Artifact("gguf", ("model.gguf",), "m", bytes=16 * MIB), tmp_path / "out", "x")

    def taking(n_bytes):
        return lambda conversion, progress: Converted(conversion.target, np.zeros(n_bytes, np.uint8).nbytes)

    with refuses(UnsupportedArtifact):
        app_convert.convert(taking(1024 * MIB), conversion, lambda *_: None)
    conversion.target.touch()
    again = dataclasses.replace(conversion, replace=True)
    assert app_convert.convert(taking(64 * MIB), again, lambda *_: None).path == conversion.target


def _raising(conversion, progress):
    raise ZeroDivisionError("of its author")


@pytest.mark.parametrize(
    "converter",
    [
        pytest.param(_raising, id="raises"),
        pytest.param(lambda conversion, progress: progress("x", None, 3), id="reports words"),
        pytest.param(lambda conversion, progress: progress(0.5), id="reports a share"),
        pytest.param(lambda conversion, progress: conversion.target, id="a path"),
        pytest.param(lambda conversion, progress: Converted(conversion.target, 9), id="wrote nothing"),
        pytest.param(lambda conversion, progress: Converted(conversion.target.parent, 9), id="elsewhere"),
    ],
)
def test_a_converter_that_breaks_its_contract_is_named(converter, tmp_path):
    with refuses(BackendError, varies=r"line \d+"):
        app_convert.convert(
            converter, Conversion(Artifact("gguf", ("m",), "m"), tmp_path / "out", "x"), lambda *_: None
        )


def test_notes_of_a_converter_are_lines_for_people(tmp_path):
    def converter(conversion, progress):
        conversion.target.touch()
        return Converted(conversion.target, 9, ("\x1b[31mred\nand \u202eblue", "x" * 10_000))

    conversion = Conversion(Artifact("gguf", ("m",), "m"), tmp_path / "out", "x")
    colours, long = app_convert.convert(converter, conversion, lambda *_: None).notes

    assert colours == "red and blue"
    assert long.endswith("x... (10,000 characters)")


@pytest.mark.parametrize("error", [ZeroDivisionError("of its author"), MemoryError()], ids=["raises", "memory"])
def test_what_a_converter_that_failed_left_is_named(error, tmp_path):
    def converter(conversion, progress):
        conversion.target.write_text("half")
        raise error

    with refuses(BackendError if isinstance(error, ZeroDivisionError) else UnsupportedArtifact, varies=r"[\d.]+ [GM]B"):
        app_convert.convert(
            converter, Conversion(Artifact("gguf", ("m",), "m"), tmp_path / "out", "x"), lambda *_: None
        )


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    target = tmp_path / "out"
    target.write_text("mine")
    conversion = Conversion(Artifact("gguf", ("m",), "m"), target, "x")
    with refuses(UsageError):
        app_convert.convert(lambda *_: target.write_text("other"), conversion, lambda *_: None)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("made", ["out", "out/inner/part"], ids=["file", "folder"])
def test_the_size_that_is_told_is_that_on_the_disk(made, tmp_path):
    def converter(conversion, progress):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).write_bytes(bytes(70))
        return Converted(conversion.target, 9)

    conversion = Conversion(Artifact("gguf", ("m",), "m"), tmp_path / "out", "x")
    assert app_convert.convert(converter, conversion, lambda *_: None).bytes == 70
