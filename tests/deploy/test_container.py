"""The container's recipe and the composition: linted, pinned, unprivileged. `deploy/build-check.sh` builds and runs the image for real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jmespath
import pytest
import yaml

from server.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
REPLICAS = [service for name, service in COMPOSE["services"].items() if name.startswith("replica")]


def run(*command: str, directory: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_finds_nothing() -> None:
    linted = run(str(Path(sys.executable).parent / "hadolint"), "Dockerfile")
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_base_is_pinned_by_digest_and_every_stage_stands_on_it() -> None:
    assert re.search(r"^ARG BASE=python:\S+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}"}


def test_the_image_runs_unprivileged_and_says_how_it_is() -> None:
    last_stage = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert "USER 10001:10001" in last_stage
    assert "HEALTHCHECK" in last_stage and "/readyz" in last_stage


def test_everything_the_recipe_copies_reaches_the_builder() -> None:
    """The ignore file lets through what is named in it and nothing else."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word.rstrip("/") for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / path).exists() for path in copied)


def test_the_environment_of_image_and_replicas_is_that_of_the_server() -> None:
    names = re.findall(r"\bPLAIT_([A-Z_]+)=", DOCKERFILE) + [name.removeprefix("PLAIT_") for name in REPLICAS[0]["environment"]]
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_replicas_have_no_privileges_and_outlast_their_drain() -> None:
    for replica in REPLICAS:
        assert (replica["read_only"], replica["user"], replica["cap_drop"]) == (True, "10001:10001", ["ALL"])
        assert int(replica["stop_grace_period"].removesuffix("s")) > int(replica["environment"]["PLAIT_DRAIN_S"])


def test_only_loopback_reaches_the_composition() -> None:
    ports = jmespath.search("services.*.ports[]", COMPOSE)
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_the_composition_mounts_is_there() -> None:
    sources = [text.split(":")[0] for text in jmespath.search("services.*.volumes[]", COMPOSE) if isinstance(text, str)]
    assert all((ROOT / "deploy" / source).exists() for source in sources if source.startswith("."))


def composed(file: Path) -> subprocess.CompletedProcess[str]:
    """Let Docker Compose read a composition; it needs no engine for that."""
    return run(str(Path(sys.executable).parent / "docker-compose"), "--file", str(file), "config", "--format", "json")


def test_docker_compose_understands_the_composition() -> None:
    read = composed(ROOT / "deploy" / "compose.yaml")
    assert read.returncode == 0, read.stderr
    services = json.loads(read.stdout)["services"]
    assert services.keys() == COMPOSE["services"].keys()
    assert services["replica-1"]["build"]["context"] == str(ROOT)


def test_a_slip_in_the_composition_would_be_noticed(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    (tmp_path / "compose.yaml").write_text(text.replace("stop_grace_period", "stop_grace_perod"), encoding="utf-8")
    read = composed(tmp_path / "compose.yaml")
    assert read.returncode != 0 and "stop_grace_perod" in read.stderr


@pytest.mark.parametrize("name", [name for name in COMPOSE["services"] if not name.startswith("replica")])
def test_no_image_is_taken_as_it_comes(name: str) -> None:
    assert re.fullmatch(r"\S+:v?[0-9]+\.[0-9]\S*", COMPOSE["services"][name]["image"])


def test_nginx_understands_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "compose" / "nginx.conf").read_text(encoding="utf-8")
    (tmp_path / "nginx.conf").write_text(re.sub(r"replica-[0-9]:", "127.0.0.1:", text), encoding="utf-8")
    options = f"pid {tmp_path}/pid; error_log {tmp_path}/error.log;"
    tested = run("nginx", "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-g", options)
    assert tested.returncode == 0, tested.stderr


def test_nginx_passes_on_the_address_with_its_port() -> None:
    """Links to pictures are made of it; without its port they led to whatever listens on port 80."""
    text = (ROOT / "deploy" / "compose" / "nginx.conf").read_text(encoding="utf-8")
    assert re.findall(r"proxy_set_header Host (\S+);", text) == ["$http_host"]


def test_prometheus_understands_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "compose" / "prometheus.yml").read_text(encoding="utf-8")
    shutil.copy(ROOT / "helm" / "plait" / "files" / "rules.yaml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/", f"{tmp_path}/"), encoding="utf-8")
    checked = run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
