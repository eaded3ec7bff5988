"""cluster/kuberay.yaml fits KubeRay's RayJob, and its image, Ray and mounts are the project's.

The schema below is written by hand from KubeRay's API reference (docs/reference/api.md of ray-project/kuberay,
Apache-2.0; authOptions from docs.ray.io's of 1.6) and held against the Go types that its CRD is generated from
(raycluster_types.go, rayjob_types.go): the fields of its own kinds, with no others allowed, and those that any version
of it requires. Of a pod's template, which is Kubernetes' own, it knows the fields that we use.
"""

import copy
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from tests.test_docs import flags_of

ROOT = Path(__file__).resolve().parents[2]
TEXT, COUNT, FLAG, QUANTITY = (
    {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"},
    {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"},
)  # fmt: skip
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(*required: str, **known: Any) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def several(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": 1}


QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = fields(
    "name", "image", name=TEXT, image=TEXT, workingDir=TEXT, command=several(TEXT), args=several(TEXT),
    env=several(fields("name", "value", name=TEXT, value=TEXT)),
    resources=fields(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=several(fields("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
)  # fmt: skip
VOLUME = fields("name", name=TEXT, emptyDir=fields(medium=TEXT, sizeLimit=QUANTITY))
POD = fields(
    "containers", containers=several(CONTAINER), volumes=several(VOLUME), serviceAccountName=TEXT,
    terminationGracePeriodSeconds=COUNT, nodeSelector=TEXTS,
)  # fmt: skip
TEMPLATE = fields("spec", metadata=fields(labels=TEXTS, annotations=TEXTS), spec=POD)
HEAD = fields(
    "template", "rayStartParams", template=TEMPLATE, enableIngress=FLAG, rayStartParams=TEXTS,
    headService={"type": "object"}, serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)  # fmt: skip
WORKERS = fields(
    "groupName", "template", "rayStartParams", "minReplicas", "maxReplicas", suspend=FLAG, groupName=TEXT,
    replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT, rayStartParams=TEXTS, template=TEMPLATE, numOfHosts=COUNT,
    scaleStrategy=fields(workersToDelete=several(TEXT)),
)  # fmt: skip
AUTOSCALER = fields(
    resources={"type": "object"}, image=TEXT, imagePullPolicy=TEXT, securityContext={"type": "object"},
    idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]}, env={"type": "array"}, envFrom={"type": "array"}, volumeMounts={"type": "array"},
)  # fmt: skip
CLUSTER = fields(
    "headGroupSpec", suspend=FLAG, managedBy=TEXT, autoscalerOptions=AUTOSCALER, headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG, gcsFaultToleranceOptions={"type": "object"}, headGroupSpec=HEAD, rayVersion=TEXT,
    workerGroupSpecs=several(WORKERS), authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
)  # fmt: skip
JOB = fields(
    activeDeadlineSeconds=COUNT, backoffLimit=COUNT, rayClusterSpec=CLUSTER, submitterPodTemplate=TEMPLATE,
    metadata=TEXTS, clusterSelector=TEXTS, submitterConfig=fields(backoffLimit=COUNT), managedBy=TEXT,
    deletionStrategy={"type": "object"}, entrypoint=TEXT, runtimeEnvYAML=TEXT, jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"}, ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG, suspend=FLAG,
)  # fmt: skip
SCHEMA = fields(
    "apiVersion", "kind", "metadata", "spec", apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"},
    metadata=fields("name", name=TEXT, namespace=TEXT, labels=TEXTS), spec=JOB,
)  # fmt: skip


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [one["template"]["spec"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_job_fits_kuberays_fields(job):
    jsonschema.validate(job, SCHEMA)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "entrypont"), "x"),
        (("spec", "submissionMode"), "Batch"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), "4"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "none"),
    ],
)
def test_what_kuberay_would_refuse_is_caught(job, place, value):
    broken: Any = copy.deepcopy(job)
    part = broken
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_image_and_cluster_have_the_ray_and_the_python_that_are_installed(job):
    python = f"py{sys.version_info[0]}{sys.version_info[1]}"
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray.__version__}-{python}-gpu\n" in dockerfile
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
    assert "-e '.[aws]'" in dockerfile
    assert f"cd {re.findall('WORKDIR (.*)', dockerfile)[0]} &&" in job["spec"]["entrypoint"]


def test_the_entrypoint_is_a_command_of_ours(job):
    command = re.sub(r"\s+", " ", job["spec"]["entrypoint"]).partition("&& ")[2]
    assert command.startswith("python -m trainers train ")
    assert set(re.findall(r"--[a-z-]+", command)) <= flags_of("trainers", "train")


def test_a_token_is_asked_for_and_nothing_is_opened_to_the_world(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in cluster["headGroupSpec"]
    secret = re.compile(r"(?i)(secret|password|access_key|token:)")
    assert not [line for line in yaml.safe_dump(job).splitlines() if secret.search(line)]


def test_nothing_is_scheduled_on_the_head_and_pods_have_time_for_a_checkpoint(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    env = {one["name"]: one["value"] for one in pods(job)[0]["containers"][0]["env"]}
    for pod in pods(job):
        assert pod["terminationGracePeriodSeconds"] > int(env["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_readers_have_shared_memory(job):
    (worker,) = pods(job)[1:]
    assert {one["mountPath"]: one["name"] for one in worker["containers"][0]["volumeMounts"]} == {
        "/dev/shm": worker["volumes"][0]["name"]
    }
    assert worker["volumes"][0]["emptyDir"]["medium"] == "Memory"


def test_an_image_has_nothing_of_what_is_private():
    for name in (".dockerignore", ".rayignore"):
        assert {"data/", "runs/", "*.pem", "*.key", ".env", ".git"} <= set((ROOT / name).read_text().split())
