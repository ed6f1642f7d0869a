"""The manifest of docs/kubernetes.md, which no cluster has run: what it names fits together."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from leash.ps.cli import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"


@pytest.fixture(scope="module")
def objects() -> dict[str, dict[str, Any]]:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    found = [part for part in yaml.safe_load_all(text) if part]
    return {f"{part['kind']} {part['metadata']['name']}": part for part in found}


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod(job)["containers"]
    assert isinstance(found, dict)
    return found


def parsed(command: str, words: list[str]) -> Any:
    """The options of a command of Leash."""
    _, options = parse([command, *words])
    options.check()
    return options


def test_the_objects_are_those_that_the_table_names(objects: dict[str, dict[str, Any]]) -> None:
    told = re.findall(r"^\| (\w+) `([\w-]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {f"{kind} {name}" for kind, name in told} == objects.keys()
    assert all(part["apiVersion"] in ("v1", "batch/v1") for part in objects.values())


def test_the_service_leads_to_the_ports_of_the_server(objects: dict[str, dict[str, Any]]) -> None:
    service, server = objects["Service leash"], objects["Job leash-server"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    open_ports = {port["containerPort"] for port in container(server)["ports"]}
    assert {port["port"] for port in service["spec"]["ports"]} == open_ports
    assert container(server)["command"] == ["leash", "server"]
    options = parsed("server", container(server)["args"])
    assert options.bind == "tcp://0.0.0.0:29500"
    assert {29500, 29501} <= open_ports
    host, _, port = options.page_at.rpartition(":")
    assert host == "0.0.0.0"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container(server)[probe]["httpGet"]
        assert (get["path"], str(get["port"])) == ("/healthz", port)
    assert server["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_the_workers_find_the_server_and_leave_when_they_are_told(
    objects: dict[str, dict[str, Any]],
) -> None:
    workers = objects["Job leash-workers"]
    (line,) = container(workers)["args"]
    told = shlex.split(line.replace("$((JOB_COMPLETION_INDEX + 1))", "1"))
    assert told[:3] == ["exec", "leash", "worker"]
    options = parsed("worker", told[3:])
    assert (options.server, options.rank) == ("tcp://leash:29500", "auto")
    assert options.grace_s < pod(workers)["terminationGracePeriodSeconds"]
    *shell, leaving = container(workers)["lifecycle"]["preStop"]["exec"]["command"]
    assert shell == ["sh", "-c"]
    assert shlex.split(leaving)[:2] == ["leash", "leave"]
    assert parsed("leave", shlex.split(leaving)[2:]).server == options.server
    # What is asked for of a policy of failures, and of an index.
    assert pod(workers)["restartPolicy"] == "Never"
    assert workers["spec"]["completionMode"] == "Indexed"
    assert workers["spec"]["completions"] == workers["spec"]["parallelism"]


@pytest.mark.parametrize("job", ["Job leash-server", "Job leash-workers"])
def test_what_is_mounted_is_there(objects: dict[str, dict[str, Any]], job: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(objects[job])["volumes"]}
    mounts = {mount["name"] for mount in container(objects[job])["volumeMounts"]}
    assert mounts == volumes.keys()
    for volume in volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert f"PersistentVolumeClaim {claim['claimName']}" in objects
        else:
            # A key that everybody may read is refused.
            assert volume["secret"]["defaultMode"] & 0o007 == 0
