"""Alert rules: valid, firing when they should and only then, each with an entry in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "plait" / "files" / "rules.yaml"
RULE_TESTS = Path(__file__).parent / "rule_tests.yaml"
RUNBOOK = ROOT / "docs" / "operations" / "alerts.md"


def promtool(*arguments: str, directory: Path) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", str(RULES), directory=ROOT)


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path / "rules.yaml")
    shutil.copy(RULE_TESTS, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS.name, directory=tmp_path)


def test_every_alert_is_tested_for_firing() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {alert["alert"] for alert in alerts()}


def test_no_summary_runs_two_labels_together() -> None:
    """A pod's name and its address stood there as one word."""
    assert "}}{{" not in RULES.read_text(encoding="utf-8")


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    headings = {"#" + heading.lower() for heading in re.findall(r"^## (\S+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)}
    for alert in alerts():
        annotations = alert["annotations"]
        assert isinstance(annotations, dict)
        page, _, anchor = str(annotations["runbook_url"]).partition("#")
        assert (page, "#" + anchor) == ("docs/operations/alerts.md", f"#{str(alert['alert']).lower()}")
        assert "#" + anchor in headings
