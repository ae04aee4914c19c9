"""What `edgellm doctor` says of stored models and adapters, their disk, and the user's own rows of models."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from edgellm import settings
from edgellm.cli import dump, unfinished
from edgellm.cli.report import Report
from edgellm.files import nearest_existing
from edgellm.units import GIB, show_size

if TYPE_CHECKING:
    from edgellm.store.adapters import StoredAdapter
    from edgellm.store.manifest import StoredModel
    from edgellm.tables import Place
    from edgellm.types.model import ModelCard


def examine_store(report: Report) -> None:
    from edgellm.app.tune import jobs
    from edgellm.store import local
    from edgellm.store.adapters import AdapterStore
    from edgellm.store.library import Library

    stored = report.attempt("the look at stored models", Library().checked) or []
    report.models = dump.stored_models(stored)
    for entry in stored:
        examine_entry(report, entry)
    for download in report.attempt("the look at unfinished downloads", Library().begun) or []:
        report.note(unfinished.sentence_of(download))
    for job in report.attempt("the look at unfinished tunings", jobs.unfinished) or []:
        report.note(unfinished.sentence_of_tuning(job))
    for adapter in report.attempt("the look at stored adapters", AdapterStore().checked) or []:
        examine_adapter(report, adapter)
    for item in report.attempt("the search for model files", local.models) or []:
        if item.problem:
            report.problem(f"{item.path} is damaged: {item.problem}", "fetch it again, or remove it")
    folder = settings.current().data_dir / "models"
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks"]
    free = shutil.disk_usage(nearest_existing(folder)).free
    size = sum(path.stat().st_size for path in files)
    report.store = {"path": str(folder), "files": len(files), "bytes": size, "free_bytes": free}
    data, cache = settings.current().data_dir, settings.current().cache_dir
    ends = {folder: "nothing is fetched", data / "history": "nothing is learned from what runs"}
    ends[cache] = "no calibration is kept, and this machine is measured again each time"
    fixed = [path for path in ends if not os.access(nearest_existing(path), os.W_OK)]
    for path in fixed:
        fix = "fine where that is meant; else check its permissions, or set EDGELLM_HOME"
        report.note(f"{path} cannot be written: {ends[path]}", fix)
    if folder not in fixed and free < GIB:
        report.problem(
            f"{show_size(free)} left on the disk of {folder}", "free some, or set EDGELLM_HOME to a larger disk"
        )


def examine_rows(report: Report) -> None:
    """The user's own rows, and those of plugins: the file may be damaged, and what they name may not be there."""
    from edgellm import explain
    from edgellm.app import context as app_context
    from edgellm.catalog.lookup import placed_rows
    from edgellm.contract.answers import plugin_of

    def placed() -> list[tuple[Place, ModelCard]]:
        file = settings.current().models_file
        return [] if file is None else placed_rows(file)

    for place, card in report.attempt("your own models", placed) or []:
        for number, model_file in enumerate(card.files):
            if (why := app_context.absence(model_file.source)) is not None:
                text = f"{place.path}: {place.row}: files[{number}].source: {explain.refusal(why)}"
                report.problem(text, "mend the row: until then this file of the model is not chosen")
    for card in report.attempt("models of plugins", lambda: app_context.rows(here=False).values()) or ():
        of_plugin = plugin_of(card.id, "register_models", unknown="")
        for number, model_file in enumerate(card.files if of_plugin else ()):
            if (why := app_context.absence(model_file.source)) is not None:
                text = f"{of_plugin}: row {card.id}: files[{number}].source: {explain.refusal(why)}"
                report.problem(text, "its author mends the row: until then this file of the model is not chosen")


def examine_adapter(report: Report, adapter: StoredAdapter) -> None:
    from edgellm import explain

    if adapter.problem is not None:
        fix = f"bring it again, or remove it: edgellm adapters rm {adapter.label}"
        report.problem(f"the adapter {adapter.label} is {explain.stored(adapter.problem)}", fix)


def examine_entry(report: Report, entry: StoredModel) -> None:
    from edgellm import explain
    from edgellm.store import manifest

    name = f"{entry.model_id} {entry.quant}"
    if entry.problem is not None:
        fix = f"{explain.stored_remedy(entry.problem)}; or remove {entry.folder}"
        report.problem(f"{name} is {explain.stored(entry.problem)}", fix)
    elif manifest.is_hashed_each_time(entry):
        report.note(
            f"{name} is hashed at each start: its files have other times than its record, and {entry.folder} cannot be "
            "written",
            "copy it with its times (cp -a, rsync -t), or start it once where it can be written",
        )
