"""The chart under the real helm: what it renders is valid Kubernetes, hardened, and refuses values that make no sense."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jmespath
import pytest
import yaml

from helm.settings_schema import DECIDED_BY_THE_CHART, SCHEMA, settings_schema
from server.api.chat_schemas import ChatRequest
from server.settings import Settings
from tests.helm.chart import CHART, VALUES, Manifest, golden_file, golden_text, helm, manifests, render
from tests.helm.custom_resources import SCHEMAS, InvalidObject, schema_file, validate

MINIMAL, EVERYTHING, PRODUCTION = (CHART / "ci" / f"{name}-values.yaml" for name in ("minimal", "everything", "production"))
GPU, MULTINODE = (CHART / "ci" / f"{name}-values.yaml" for name in ("gpu", "multinode"))


def name_of(values: Path) -> str:
    return values.name.removesuffix("-values.yaml")


def find(document: object, path: str) -> object:
    return jmespath.search(path, document)


def of_kind(values: Path, kind: str, *sets: str) -> Manifest:
    return next(document for document in manifests(values, *sets) if document["kind"] == kind)


def pod_spec(values: Path, *sets: str) -> object:
    return find(of_kind(values, "Deployment", *sets), "spec.template.spec")


@pytest.mark.parametrize("values", VALUES, ids=name_of)
def test_lint_finds_nothing_even_when_strict(values: Path) -> None:
    answer = helm("lint", "--strict", "--quiet", str(CHART), "--values", str(values))
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("values", VALUES, ids=name_of)
def test_every_object_is_valid_by_the_schema_of_its_kind(values: Path) -> None:
    documents = manifests(values)
    for document in documents:
        validate(document)
    assert len(documents) >= 6


def test_every_custom_kind_is_rendered_and_has_its_schema() -> None:
    rendered = {schema_file(document) for values in VALUES for document in manifests(values)}
    assert set(SCHEMAS.glob("*.json")) <= rendered


SLIPS = [
    (MINIMAL, "Service", "ports[0]", "prot", 80),
    (EVERYTHING, "ScaledObject", "fallback", "behaviour", "static"),
    (EVERYTHING, "ScaledObject", "fallback", "behavior", "sometimes"),
    (EVERYTHING, "ScaledObject", "triggers[0].metadata", "threshold", 4),
    (EVERYTHING, "PodMonitor", "podMetricsEndpoints[0]", "intervall", "15s"),
    (EVERYTHING, "PodMonitor", "podMetricsEndpoints[0]", "interval", "soon"),
    (EVERYTHING, "PrometheusRule", "groups[0].rules[0]", "annotation", {}),
    (EVERYTHING, "HTTPRoute", "rules[0].timeouts", "backend", "100s"),
    (EVERYTHING, "InferencePool", "endpointPickerRef", "failureMode", "Open"),
    (EVERYTHING, "InferencePool", "targetPorts[0]", "number", 80000),
    (MULTINODE, "LeaderWorkerSet", "rolloutStrategy.rollingUpdateConfiguration", "maxUnavailabel", 0),
    (MULTINODE, "LeaderWorkerSet", "leaderWorkerTemplate.workerTemplate.spec.containers[0]", "imagePolicy", "Never"),
]


@pytest.mark.parametrize(("values", "kind", "path", "field", "value"), SLIPS, ids=[f"{slip[1]}-{slip[3]}" for slip in SLIPS])
def test_a_slip_in_a_template_would_be_noticed(values: Path, kind: str, path: str, field: str, value: object) -> None:
    document = of_kind(values, kind)
    validate(document)
    place = find(document, f"spec.{path}")
    assert isinstance(place, dict)
    place[field] = value
    with pytest.raises(InvalidObject):
        validate(document)


def test_a_kind_without_a_schema_would_be_noticed() -> None:
    with pytest.raises(InvalidObject, match="ServiceMonitor"):
        validate({"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "demo"}, "spec": {}})


@pytest.mark.parametrize("values", VALUES, ids=name_of)
def test_the_render_is_the_one_that_was_reviewed(values: Path) -> None:
    assert golden_text(values) == golden_file(values).read_text(encoding="utf-8"), "changed on purpose? python -m tests.helm.chart"


def test_the_chart_packs_without_its_test_values(tmp_path: Path) -> None:
    answer = helm("package", str(CHART), "--destination", str(tmp_path))
    (archive,) = tmp_path.glob("plait-*.tgz")
    assert answer.returncode == 0
    shown = helm("show", "values", str(archive))
    assert yaml.safe_load(shown.stdout) == yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def test_settings_are_one_to_one_with_the_server_s() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert schema["properties"]["settings"] == settings_schema(), "run: python -m helm.settings_schema"
    assert set(schema["properties"]["settings"]["properties"]) == Settings.model_fields.keys() - DECIDED_BY_THE_CHART


@pytest.mark.parametrize("values", VALUES, ids=name_of)
def test_the_server_reads_the_settings_it_is_given(values: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rendered environment builds real settings, with the keys and addresses that secrets would hold."""
    config = of_kind(values, "ConfigMap")
    environment = {str(name): str(value) for name, value in config["data"].items()} if isinstance(config["data"], dict) else {}
    given = {name.removeprefix("PLAIT_").lower() for name in environment}
    assert given <= Settings.model_fields.keys()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "PLAIT_INSECURE" not in environment and "PLAIT_KEYS_FILE" not in environment:
        monkeypatch.setenv("PLAIT_API_KEY", "sk-0123456789abcdef")
    assert Settings().metrics_port in (9090, 9100)


REFUSED = [
    ("replicsa=2", "additional properties 'replicsa' not allowed"),
    ("settings.drain=5", "additional properties 'drain' not allowed"),
    ("settings.drain_s=soon", "at '/settings/drain_s': got string, want number"),
    ("settings.page_size=0", "at '/settings/page_size': minimum: got 0, want 1"),
    ("image.tag=latest", "at '/image/tag': 'not' failed"),
    ("terminationGracePeriodSeconds=60", "preStopSeconds 15 + settings.drain_s 60 + 5 need 80"),
    ("auth.insecure=false", "auth: name a Secret with a key for clients"),
    ("auth.keysFile=keys.json", "auth.keysFile: it is a key of auth.secretName, which is empty"),
    ("model.claim.name=models,model.baked=/models/x", "model: choose one of claim, image, baked and download, not models and /models/x"),
    ("model.download.image=tools:1", "model.download.command: say what writes the model to $MODEL_DIR"),
    ("autoscaling.kind=keda,autoscaling.minReplicas=9", "autoscaling: minReplicas 9 is more than maxReplicas 8"),
    ("autoscaling.kind=hpa,autoscaling.scaleDownSeconds=30", "autoscaling.scaleDownSeconds: 30 is less than settings.drain_s 60"),
    ("autoscaling.kind=vpa", "value must be one of 'none', 'keda', 'hpa'"),
    ("multiNode.enabled=true", "multiNode.workerCommand: say what the workers run"),
    ("inferencePool.enabled=true", "inferencePool.endpointPicker.name: name the Service of the endpoint picker"),
    ("httpRoute.enabled=true", "httpRoute.gateways: name at least one parent"),
    ("extraEnv[0].name=PLAIT_DRAIN_S,extraEnv[0].value=nine", "extraEnv: PLAIT_DRAIN_S belongs into settings, as drain_s"),
    ("scratch=2 gigabytes", "at '/scratch'"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED, ids=[wrong for wrong, _ in REFUSED])
def test_a_wrong_value_is_refused_with_a_message_that_helps(wrong: str, message: str) -> None:
    answer = render(MINIMAL, wrong)
    assert answer.returncode != 0
    assert message in answer.stderr


def test_without_values_the_chart_asks_for_keys() -> None:
    assert "auth: name a Secret with a key for clients" in render(None).stderr


@pytest.mark.parametrize("values", VALUES, ids=name_of)
def test_the_grace_period_outlasts_pre_stop_and_drain(values: Path) -> None:
    documents = manifests(values)
    pods = [spec for spec in (find(d, "spec.template.spec || spec.leaderWorkerTemplate.leaderTemplate.spec") for d in documents) if spec]
    drain = next(float(str(find(d, "data.PLAIT_DRAIN_S"))) for d in documents if find(d, "data.PLAIT_DRAIN_S"))
    (pod,) = pods
    pre_stop = find(pod, "containers[0].lifecycle.preStop.sleep.seconds")
    grace = find(pod, "terminationGracePeriodSeconds")
    assert isinstance(pre_stop, int) and isinstance(grace, int)
    assert grace >= pre_stop + drain + 5


@pytest.mark.parametrize("values", [MINIMAL, PRODUCTION, GPU, EVERYTHING], ids=name_of)
def test_pods_can_do_nothing_but_serve(values: Path) -> None:
    pod = pod_spec(values)
    assert find(pod, "automountServiceAccountToken") is False
    assert find(pod, "securityContext.runAsNonRoot") is True
    assert find(pod, "securityContext.seccompProfile.type") == "RuntimeDefault"
    contexts = find(pod, "[containers, initContainers || `[]`][].securityContext")
    assert isinstance(contexts, list)
    for context in contexts:
        assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert find(pod, "length([containers, initContainers || `[]`][])") == len(contexts)


def test_probes_ask_different_things() -> None:
    container = find(pod_spec(MINIMAL), "containers[0]")
    assert find(container, "[startupProbe.httpGet.path, readinessProbe.httpGet.path, livenessProbe.httpGet.path]") == [
        "/readyz",
        "/readyz",
        "/livez",
    ]


def test_a_changed_setting_restarts_the_pods() -> None:
    def checksum(*sets: str) -> object:
        return find(of_kind(MINIMAL, "Deployment", *sets), 'spec.template.metadata.annotations."checksum/config"')

    assert checksum() == checksum() != checksum("settings.drain_s=61")


def test_secrets_are_named_and_never_written_out() -> None:
    text = render(EVERYTHING).stdout
    assert "kind: Secret\n" not in text
    environment = find(pod_spec(EVERYTHING), "containers[0].env[?valueFrom.secretKeyRef].[name, valueFrom.secretKeyRef.name]")
    assert environment == [["PLAIT_API_KEY", "plait-key"], ["PLAIT_STORE", "plait-redis"]]


def test_both_lanes_and_the_first_token_scale_the_deployment() -> None:
    queries = find(of_kind(EVERYTHING, "ScaledObject"), "spec.triggers[].metadata.query")
    assert isinstance(queries, list)
    for series, query in zip(('{lane="text"', '{lane="image"', "plait_time_to_first_token_seconds_bucket"), queries, strict=True):
        assert series in query


def test_an_autoscaled_deployment_does_not_fix_its_replicas() -> None:
    assert find(of_kind(PRODUCTION, "Deployment"), "spec.replicas") is None
    assert find(of_kind(MINIMAL, "Deployment"), "spec.replicas") == 1


def test_gpus_are_asked_for_where_the_model_runs() -> None:
    pod = pod_spec(GPU)
    assert find(pod, 'containers[0].resources.limits."nvidia.com/gpu"') == "1"
    assert find(pod, "runtimeClassName") == "nvidia"
    assert find(pod, "initContainers[0].resources") is None


def test_a_model_across_nodes_is_a_group_with_one_leader() -> None:
    documents = manifests(MULTINODE)
    assert not any(document["kind"] == "Deployment" for document in documents)
    group = find(of_kind(MULTINODE, "LeaderWorkerSet"), "spec.leaderWorkerTemplate")
    assert find(group, "size") == 2
    assert find(group, "workerTemplate.spec.containers[0].command") == ["plait", "engine-worker"]
    assert find(group, "leaderTemplate.spec.containers[0].readinessProbe.httpGet.path") == "/readyz"


def test_nobody_but_the_named_reaches_the_pods() -> None:
    policy = of_kind(PRODUCTION, "NetworkPolicy")
    assert find(policy, "spec.policyTypes") == ["Ingress", "Egress"]
    peers = find(policy, 'spec.ingress[].from[].namespaceSelector.matchLabels."kubernetes.io/metadata.name"')
    assert peers == ["gateways", "monitoring"]
    assert find(policy, "spec.egress[].ports[].port") == [53, 53, 6379]


def test_workers_reach_their_leader() -> None:
    """They are told its address, and the policy that lets it call them let nobody in on their ports."""
    workers = find(of_kind(MULTINODE, "LeaderWorkerSet"), "spec.leaderWorkerTemplate.workerTemplate.metadata.labels")
    peers = find(of_kind(MULTINODE, "NetworkPolicy"), "spec.ingress[?!ports].from[].podSelector.matchLabels")
    assert peers == [workers]


COLLECTORS = {
    "http://otel-collector.observability:4318": 4318,
    "https://collector.example.com": 443,
    "http://collector.example.com/otlp": 80,
    "http://[fd00::1]": 80,
    "https://[fd00::1]:4317": 4317,
}


@pytest.mark.parametrize("endpoint", COLLECTORS)
def test_traces_may_leave_by_the_port_to_which_they_are_sent(endpoint: str) -> None:
    """An address without a port is that of its scheme; 4318 was opened, and the exporter went to 443."""
    policy = of_kind(MINIMAL, "NetworkPolicy", f"tracing.endpoint={endpoint}")
    assert find(policy, "spec.egress[].ports[].port") == [53, 53, COLLECTORS[endpoint]]


def test_the_service_never_sends_requests_to_the_test_pod() -> None:
    pod = of_kind(MINIMAL, "Pod")
    selector = find(of_kind(MINIMAL, "Service"), "spec.selector")
    assert isinstance(selector, dict)
    labels = find(pod, "metadata.labels")
    assert isinstance(labels, dict)
    assert not selector.items() <= labels.items()


def test_the_test_pod_has_a_key_wherever_one_is_asked_for() -> None:
    """Beside a keys file it had none, and `helm test` failed with 401."""

    def key(values: Path) -> object:
        return find(of_kind(values, "Pod"), "spec.containers[0].env[?name=='API_KEY'] | [0].valueFrom.secretKeyRef")

    assert key(PRODUCTION) == {"name": "plait-test-key", "key": "api-key"}
    assert key(EVERYTHING) == {"name": "plait-key", "key": "api-key"}
    assert key(MINIMAL) is None


def test_beside_a_keys_file_there_is_no_test_without_a_client_s_key() -> None:
    assert not any(document["kind"] == "Pod" for document in manifests(PRODUCTION, "test.secretName="))


KEYS = {
    "": "$KEY",
    "test.secretName=tests,test.key=a.key": "$(kubectl -n default get secret tests -o jsonpath='{.data.a\\.key}' | base64 -d)",
}


@pytest.mark.parametrize("sets", KEYS)
def test_the_notes_look_for_a_key_where_it_is(sets: str) -> None:
    keys_file = "auth.insecure=false,auth.secretName=keys,auth.keysFile=keys.json"
    notes = helm(
        "install", "demo", str(CHART), "--dry-run=client", "--values", str(MINIMAL), "--set", f"{keys_file},{sets}".strip(",")
    ).stdout
    assert f'-H "Authorization: Bearer {KEYS[sets]}"' in notes
    assert ("helm -n default test demo" if sets else "There is no `helm test`") in notes


def test_endpoint_pickers_find_the_pods_and_know_their_metrics() -> None:
    labels = find(of_kind(EVERYTHING, "Deployment"), "spec.template.metadata.labels")
    pool = of_kind(EVERYTHING, "InferencePool")
    selector = find(pool, "spec.selector.matchLabels")
    assert isinstance(selector, dict) and isinstance(labels, dict)
    assert selector.items() <= labels.items()
    assert labels["inference.networking.k8s.io/engine-type"] == "vllm"


def test_notes_warn_of_replicas_without_a_store() -> None:
    answer = helm("install", "demo", str(CHART), "--dry-run=client", "--values", str(MINIMAL), "--set", "replicas=3")
    assert "WARNING: several replicas and no store" in answer.stdout
    assert "helm -n default test demo" in answer.stdout


NAMES = {"replicas=1": "storybook", "model.baked=/models/BAGEL-7B-MoT": "BAGEL-7B-MoT", "model.claim.name=models,model.name=bagel": "bagel"}


@pytest.mark.parametrize("sets", NAMES)
def test_the_request_in_the_notes_is_one_that_the_server_takes(sets: str) -> None:
    """It once named no model and was refused, as the first thing an operator tried."""
    notes = helm("install", "demo", str(CHART), "--dry-run=client", "--values", str(MINIMAL), "--set", sets).stdout
    body = re.search(r"-d '(.*)'", notes)
    assert body is not None
    assert ChatRequest.model_validate_json(body[1]).model == NAMES[sets]


def test_values_files_cover_every_template() -> None:
    """A template that no values file renders would be tested by nobody."""
    lines = [line for values in VALUES for line in render(values).stdout.splitlines()]
    rendered = {line.removeprefix("# Source: plait/") for line in lines if line.startswith("# Source: ")}
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert templates == rendered
