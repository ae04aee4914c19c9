"""One job of the tuner, as its worker does it, for tuning_memory.py. Prints the most memory that it took, in bytes.

Counted are anonymous bytes and pages of the model, as the formula does: not those of libraries.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import msgspec
from resident import highest_without_libraries

from edgellm.adaptation import packed
from edgellm.adaptation.checkpoint import CheckpointOrigin, Checkpoints
from edgellm.adaptation.loop import Course, train
from edgellm.adaptation.worker import ROWS, TuneJob, key_of
from edgellm.contract.manager import plugins


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=TuneJob)
    folder = Path(job.folder)
    rows = packed.read(folder / ROWS)
    trainer = plugins().tuners()[job.tuner].open(job.base, job.settings)
    origin = CheckpointOrigin(job.machine, trainer.build, job.settings.n_threads)
    looks = dataclasses.replace(rows, starts=rows.starts[: job.settings.batch + 1])  # at what one batch holds
    checkpoints = Checkpoints(folder, key_of(job, rows, looks), origin)
    train(Course(job.settings, rows, looks, checkpoints, folder), trainer, lambda event: None)
    print(json.dumps({"peak": highest_without_libraries()}))


if __name__ == "__main__":
    main()
