"""Sends what /openapi.json describes, and what it does not, to a server of its own: `make fuzz-http`.

schemathesis, in an environment of its own, generates the requests. It looks for statuses of 500, for answers that are
not as the document says, and for methods that are answered wrongly.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = ROOT / ".venv-fuzz-http" / "bin" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
UNSERVED = r"^/api/(create|push|blobs|web_)"  # answered with 501
OPEN = re.compile(r"Open (http://\S+)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    command = [Path(sys.executable).with_name("edgellm"), "serve", "echo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = next(opened[1] for line in server.stdout if (opened := OPEN.match(line)))
        run = [
            *(SCHEMATHESIS, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)),
            *("--exclude-path-regex", UNSERVED),
            *("--max-time", str(arguments.seconds), "--seed", str(arguments.seed), "--continue-on-failure"),
        ]
        try:
            return subprocess.run(run, check=False).returncode
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
