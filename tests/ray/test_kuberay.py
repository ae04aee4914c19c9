"""The manifest for KubeRay: its form, and the application that it names."""

from __future__ import annotations

import importlib
from pathlib import Path

import yaml
from edgellm_ray.node import BOX, SHARE

MANIFEST = Path(__file__).parents[2] / "docs" / "examples" / "kuberay.yaml"


def test_the_manifest_names_an_application_that_can_be_built() -> None:
    from ray.serve.schema import ServeDeploySchema

    manifest = yaml.safe_load(MANIFEST.read_text("utf-8"))
    config = ServeDeploySchema(**yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    (app,) = config.applications
    module, name = app.import_path.split(":")

    built = getattr(importlib.import_module(module), name)(app.args)

    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert built._bound_deployment.ray_actor_options["resources"] == {BOX: SHARE}


def test_workers_have_a_box_and_the_version_is_that_of_the_tests() -> None:
    import ray

    cluster = yaml.safe_load(MANIFEST.read_text("utf-8"))["spec"]["rayClusterConfig"]

    assert cluster["rayVersion"] == ray.__version__
    for group in cluster["workerGroupSpecs"]:
        assert BOX in group["rayStartParams"]["resources"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
