"""Kubernetes: a Deployment and a Service that start vLLM or SGLang as its own launcher does.

The manifest follows vLLM's page on Kubernetes: GPU limits, shared memory for the ranks' exchange (``/dev/shm``), and
probes of ``/health``, which both engines have. Loading a model is given an hour before the pod counts as failed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import ranks_of, to_yaml
from kvplan.launchers import default_target, engine_name
from kvplan.launchers import launch as launch_engine

TARGET = "k8s"
ENGINES = ("vllm", "sglang")

FILE = "deployment.yaml"
LONGEST_NAME = 63
"""Characters of a DNS label (RFC 1123), which names of Services and values of labels are."""

_PROBE_SECONDS, _LOADING_SECONDS = 10, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """An engine's published image, the port that it serves on, and the words that its container needs besides."""

    image: str
    port: int
    extra: tuple[str, ...] = ()


_SERVERS: Mapping[str, _Server] = {
    "vllm": _Server(image="vllm/vllm-openai", port=8000),
    "sglang": _Server(image="lmsysorg/sglang", port=30000, extra=("--host", "0.0.0.0")),
}
"""vLLM listens on every address by itself, SGLang on 127.0.0.1 alone."""


def launch(plan: LaunchPlan) -> Launch:
    """``kubectl apply`` of one file, for one pod on one node.

    Raises UnsupportedError for accelerators other than NVIDIA's, UsageError for a relative path as the model.
    """
    if plan.vendor != "nvidia":
        raise UnsupportedError(
            f"kvplan writes Kubernetes manifests for NVIDIA GPUs alone, not for {plan.device or plan.vendor}",
            f"take the command of the {engine_name(plan.engine)} target",
        )
    if plan.model.startswith((".", "~")):
        raise UsageError(
            f"a pod cannot find {plan.model}", "name a Hub id, or the absolute path of a folder on the node"
        )
    engine = engine_name(plan.engine)
    own, server = launch_engine(default_target(engine), plan), _SERVERS[engine]
    objects = (_deployment(plan, (*own.argv, *server.extra), server), _service(plan, server))
    return Launch(
        target=TARGET,
        argv=("kubectl", "apply", "-f", FILE),
        files={FILE: "---\n".join(map(to_yaml, objects))},
        notes=_notes(plan),
    )


def resource_name(plan: LaunchPlan) -> str:
    """``vllm-llama-3-1-8b``: the engine and the last part of the model's name as a DNS label."""
    last = plan.model.rstrip("/").rpartition("/")[2].lower()
    text = f"{engine_name(plan.engine)}-{re.sub('[^a-z0-9]+', '-', last)}"
    return text[:LONGEST_NAME].strip("-")


def _deployment(plan: LaunchPlan, argv: tuple[str, ...], server: _Server) -> dict[str, Any]:
    """One replica, replaced rather than rolled over: a second one would need as many GPUs again."""
    labels = {"app.kubernetes.io/name": resource_name(plan)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": resource_name(plan), "labels": labels},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(plan, argv, server)},
        },
    }


def _pod(plan: LaunchPlan, argv: tuple[str, ...], server: _Server) -> dict[str, Any]:
    """Service links are off: a Service's VLLM_... variables would be read as vLLM's own."""
    local = plan.model.startswith("/")
    mounts: list[dict[str, Any]] = [{"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if local:
        mounts.append({"name": "model", "mountPath": plan.model, "readOnly": True})
        volumes.append({"name": "model", "hostPath": {"path": plan.model, "type": "Directory"}})
    container = {
        "name": engine_name(plan.engine),
        "image": f"{server.image}:{f'v{plan.engine_version}' if plan.engine_version else 'latest'}",
        "command": ["python3" if word == "python" else word for word in argv],
        **({} if local else {"env": [_hub_token()]}),
        "ports": [{"name": "http", "containerPort": server.port}],
        "resources": {"limits": {"nvidia.com/gpu": ranks_of(plan.parallel)}},
        **_probes(),
        "volumeMounts": mounts,
    }
    return {"enableServiceLinks": False, "containers": [container], "volumes": volumes}


def _probes() -> dict[str, Any]:
    """The start is probed until the model is loaded; only then do the others count."""
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": _PROBE_SECONDS}
    return {
        "startupProbe": {**probe, "failureThreshold": _LOADING_SECONDS // _PROBE_SECONDS},
        "readinessProbe": {**probe, "timeoutSeconds": 5},
        "livenessProbe": {**probe, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _hub_token() -> dict[str, Any]:
    secret = {"name": "hf-token", "key": "token", "optional": True}
    return {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}}


def _service(plan: LaunchPlan, server: _Server) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": resource_name(plan)}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": resource_name(plan), "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": server.port, "targetPort": "http"}]},
    }


def _notes(plan: LaunchPlan) -> tuple[str, ...]:
    gpus = ranks_of(plan.parallel)
    where = f"one pod asks for {gpus} GPUs of one node" if gpus > 1 else "one pod asks for one GPU"
    if plan.model.startswith("/"):
        return (where, f"{plan.model} must be on that node")
    return (where, "gated models: kubectl create secret generic hf-token --from-literal=token=...")
