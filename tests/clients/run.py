"""Runs official clients against `edgellm serve`, in environments of their own.

    run.py FOLDER [--latest] [ARGUMENTS OF PYTEST]

Clients that exclude each other have environments of their own: requirements/NAME.txt is the one of test_NAME.py, and
all other files run in `main`. EDGELLM names the command to serve with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from environment import HERE, WITH_NODE, Environment

NOTHING_RAN = 5  # pytest's status where its arguments chose none of these tests


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latest", action="store_true")
    arguments, chosen = parser.parse_known_args()
    environments = [
        Environment(arguments.folder.resolve() / requirements.stem, requirements, arguments.latest)
        for requirements in sorted((HERE / "requirements").glob("*.txt"), key=lambda one: one.stem != WITH_NODE)
    ]
    own = {one.name: f"test_{one.name}.py" for one in environments if one.name != WITH_NODE}
    statuses, newer = [], []
    for environment in environments:
        environment.make()
        newer += environment.newer() if arguments.latest else ()
        files = [own[environment.name]] if environment.name in own else [f"--ignore={file}" for file in own.values()]
        command = [str(environment.python), "-m", "pytest", "-c", "pytest.ini", "--rootdir", ".", "--confcutdir", "."]
        statuses.append(subprocess.run([*command, "-q", *files, *chosen], cwd=HERE, check=False).returncode)
    if arguments.latest:
        sys.stdout.write(f"Other releases than pinned: {'; '.join(newer) or 'none'}\n")
    return int(any(status not in (0, NOTHING_RAN) for status in statuses))


if __name__ == "__main__":
    sys.exit(main())
