"""One job of the tuner, as its worker does it, for tuning_memory.py. Prints the most memory that it took, in bytes.

Counted are anonymous bytes and pages of the model, as the formula does: not those of libraries.
"""

from __future__ import annotations

import json
import sys
import threading

import msgspec
from resident import highest_without_libraries

from edgellm.adaptation.worker import TuneJob, tune_here


def main() -> None:
    tune_here(msgspec.json.decode(sys.argv[1], type=TuneJob), lambda event: None, threading.Event())
    print(json.dumps({"peak": highest_without_libraries()}))


if __name__ == "__main__":
    main()
