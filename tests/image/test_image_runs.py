"""An image of a real Debian, real wheels and a real model, unpacked by umoci and run as a container runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support import images
from support.bare_root import bare_root
from support.made_wheels import folder, made

from edgellm.cli.main import cli

X86 = "manylinux_2_28_x86_64"
# Serves as the image says, waits until its own health check succeeds, asks, and ends it as `docker stop` does.
_SERVE = """
import json, signal, subprocess, sys, time, urllib.request
entry, check = json.loads(sys.argv[1]), json.loads(sys.argv[2])
server = subprocess.Popen(entry, stdout=sys.stderr)
while subprocess.run(check, capture_output=True).returncode:
    assert server.poll() is None, "the server ended"
    time.sleep(0.2)
body = {"messages": [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}],
        "temperature": 0, "max_tokens": 24}
headers = {"Authorization": "Bearer 0123456789abcdef", "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8642/v1/chat/completions", json.dumps(body).encode(), headers)
answer = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]
server.send_signal(signal.SIGTERM)
print(json.dumps([answer, server.wait()]))
"""


@pytest.mark.model
@pytest.mark.slow(120)
@pytest.mark.timeout(900)
def test_it_runs_unprivileged_on_a_read_only_root(smollm2: str, own_home: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("wheels: only root may enter a root as another user")
    if shutil.which("umoci") is None:
        pytest.skip("wheels: no umoci: apt-get install umoci")
    made("llama_cpp_python", X86)
    if not any(folder().glob(f"numpy-*-cp313-*{X86}.whl")):
        pytest.skip(f'wheels: {folder()} has not what they need (make wheels ARGS="--python 3.13")')
    layout, unpacked = tmp_path / "layout", tmp_path / "unpacked"
    arguments = [
        "image", "create", "--for", "intel-n100-16gb", "--root", str(bare_root("trixie")), "--wheels", str(folder()),
        "--model", smollm2, "-o", str(layout),
    ]  # fmt: skip
    result = CliRunner().invoke(cli, arguments)
    assert result.exception is None, result.output
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:latest", unpacked], check=True, capture_output=True)
    config, root = images.config_of(layout), unpacked / "rootfs"
    config["config"]["Env"].append("EDGELLM_API_KEY=0123456789abcdef")
    runs = config["config"]
    for user in (int(runs["User"].partition(":")[0]), 12345):
        arguments = [json.dumps([*runs["Entrypoint"], *runs["Cmd"]]), json.dumps(runs["Healthcheck"]["Test"][1:])]
        answer, code = json.loads(images.run(root, config, user, runs["Entrypoint"][0], "-c", _SERVE, *arguments))
        assert (answer, code) == ("The capital of France is Paris.", 0)

    document = (root / "opt/edgellm/share/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None
    rows = [row for part in json.loads(document)["components"] for row in (part.get("components") or [part])]
    files = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != "sbom.cdx.json"
    }
    assert {row["properties"][0]["value"] for row in rows} == files
    assert all(row["licenses"] and row["hashes"] for row in rows)
