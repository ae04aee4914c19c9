"""Programs that know of one box run unchanged against a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cluster_front import KEY, one_box
from support.ray_cluster import Boxes

pytestmark = [pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def echoing(boxes: Boxes) -> Boxes:
    boxes.serve("echo", slots=4, ctx=4096, threads=1)
    return boxes


def said(*words: str, key: str | None, **variables: str) -> str:
    """What a program prints that ends well."""
    done = subprocess.run(
        [sys.executable, *words], env=os.environ | {"EDGELLM_API_KEY": str(key), **variables}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_says_the_same_of_one_box_and_of_a_cluster(echoing: Boxes) -> None:
    program = "docs/examples/openai_client.py"
    with one_box(KEY) as box:
        alone = said(program, box.address, key=KEY)

    assert said(program, echoing.url, key=echoing.key) == alone == "Say hello in French.\n"


@pytest.mark.parametrize("tests", ["test_openai.py", "test_openai_responses.py"])
def test_the_client_of_openai_does_all_that_it_does_with_one_box(echoing: Boxes, tests: str, tmp_path: Path) -> None:
    """Its tests are those of `make test-clients`. What a model is told as differs between boxes."""
    options = ["-q", "-k", "not test_models", "-c", "tests/clients/pytest.ini", "--rootdir", "tests/clients"]
    options += ["--basetemp", str(tmp_path / "own")]
    said("-m", "pytest", *options, f"tests/clients/{tests}", key=echoing.key, SERVED_AT=echoing.url)
