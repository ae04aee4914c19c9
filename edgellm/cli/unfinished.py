"""Downloads and tunings that did not end: how to go on with one, or to be rid of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgellm.cli.page import say
from edgellm.units import show_size

if TYPE_CHECKING:
    from edgellm.app.tune.jobs import UnfinishedTuning
    from edgellm.store.begun import BegunDownload


def sentence_of(download: BegunDownload) -> str:
    name = f"{download.model_id} {download.quant}".strip()
    if download.is_running:
        return f"{name}  is being fetched, {show_size(download.bytes)} so far"
    again = "the same `edgellm pull` goes on" if download.resumes else "`edgellm pull` begins it anew"
    word = f"{download.model_id}:{download.quant}" if download.quant else download.model_id
    return f"{name}  {show_size(download.bytes)} of an unfinished download: {again}, `edgellm rm {word}` deletes it"


def sentence_of_tuning(job: UnfinishedTuning) -> str:
    if job.is_running:
        return f"{job.label}  is being tuned, {show_size(job.bytes)} so far"
    return f"{job.label}  {show_size(job.bytes)} of an unfinished tuning: `edgellm adapters jobs` says how to go on"


@contextlib.contextmanager
def telling_what_is_kept() -> Iterator[None]:
    """After an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        from edgellm.store.library import Library

        for download in Library().begun():
            if not download.is_running:
                say(f"Kept: {sentence_of(download)}.", err=True)
        raise
