"""Writes the Grafana dashboards of the chart: `python -m helm.dashboards`. A panel is a title, a unit and its queries.

``$selector`` in a query becomes the matchers of the dashboard's variables, so that one dashboard serves every namespace and pod.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent / "plait" / "files" / "dashboards"
SELECTOR = 'namespace=~"$namespace", pod=~"$pod"'
PANEL_WIDTH, PANEL_HEIGHT, PANELS_IN_A_ROW = 8, 8, 3


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. ``queries`` maps what a line is called to its PromQL."""

    title: str
    unit: str
    queries: dict[str, str]


def quantiles(series: str, labels: str = "") -> dict[str, str]:
    """Return the median, p95 and p99 of a histogram."""
    matchers = f"{labels}, $selector" if labels else "$selector"
    rates = f"sum by (le) (rate({series}_bucket{{{matchers}}}[$__rate_interval]))"
    return {f"p{percent}": f"histogram_quantile({percent / 100}, {rates})" for percent in (50, 95, 99)}


def rate(series: str, by: str) -> dict[str, str]:
    """Return the rate of a counter by one label."""
    return {f"{{{{{by}}}}}": f"sum by ({by}) (rate({series}{{$selector}}[$__rate_interval]))"}


def total_rate(series: str, name: str) -> dict[str, str]:
    """Return the rate of a counter over everything."""
    return {name: f"sum(rate({series}{{$selector}}[$__rate_interval]))"}


def by_pod(series: str) -> dict[str, str]:
    """Return a gauge of each pod."""
    return {"{{pod}}": f"{series}{{$selector}}"}


SERVICE = [
    Panel("Answers, by how they ended", "reqps", rate("plait_requests_finished_total", "reason")),
    Panel("Refusals, by reason", "reqps", rate("plait_rejections_total", "reason")),
    Panel("HTTP, by status", "reqps", rate("plait_http_requests_total", "status")),
    Panel("Time to first token", "s", quantiles("plait_time_to_first_token_seconds")),
    Panel("Between tokens", "s", quantiles("plait_inter_token_seconds")),
    Panel("Whole answers", "s", quantiles("plait_e2e_request_seconds")),
    Panel("In flight", "short", by_pod("plait_requests_in_flight")),
    Panel("Prompt tokens", "short", rate("plait_prompt_tokens_total", "kind")),
    Panel("Generated tokens", "short", rate("plait_generated_tokens_total", "kind")),
    Panel("Ready", "bool", by_pod("plait_engine_ready")),
    Panel(
        "Where time goes",
        "percentunit",
        {
            "{{phase}}": "sum by (phase) (rate(plait_request_phase_seconds_sum{$selector}[$__rate_interval]))"
            " / scalar(sum(rate(plait_request_phase_seconds_sum{$selector}[$__rate_interval])))"
        },
    ),
    Panel("Waiting in the queue", "s", quantiles("plait_request_phase_seconds", 'phase="queue"')),
]

ENGINE = [
    Panel("Running, by lane", "short", {"{{lane}}": "sum by (lane) (plait_requests_running{$selector})"}),
    Panel("Waiting, by lane", "short", {"{{lane}}": "sum by (lane) (plait_requests_waiting{$selector})"}),
    Panel("Drained a second, by lane", "reqps", {"{{lane}}": "sum by (lane) (plait_lane_drain_per_second{$selector})"}),
    Panel(
        "Cache pages",
        "percentunit",
        {
            "in use": "sum(plait_pages_used{$selector}) / sum(plait_pages_total{$selector})",
            "kept for prompts": "sum(plait_pages_cached{$selector}) / sum(plait_pages_total{$selector})",
        },
    ),
    Panel(
        "Prefix cache hits",
        "percentunit",
        {
            "rows": "sum(rate(plait_prefix_cache_hits_total{$selector}[$__rate_interval]))"
            " / sum(rate(plait_prefix_cache_queries_total{$selector}[$__rate_interval]))",
        },
    ),
    Panel("Prompt tokens that were cached", "short", rate("plait_prompt_tokens_cached_total", "kind")),
    Panel("Preemptions", "short", total_rate("plait_preemptions_total", "preempted")),
    Panel("Rows run", "short", rate("plait_engine_rows_total", "kind")),
    Panel("Steps", "short", total_rate("plait_engine_steps_total", "steps")),
    Panel("Step time", "s", quantiles("plait_engine_step_seconds")),
    Panel("Forward pass (GPU: its launch)", "s", quantiles("plait_engine_forward_seconds")),
    Panel("Predicted step time", "s", quantiles("plait_engine_step_foreseen_seconds")),
    Panel("Error of the cost model", "percentunit", by_pod("plait_cost_model_error_ratio")),
    Panel("Prefill", "s", quantiles("plait_request_phase_seconds", 'phase="prefill"')),
    Panel("Decode", "s", quantiles("plait_request_phase_seconds", 'phase="decode"')),
]

PICTURES = [
    Panel("Pictures", "short", total_rate("plait_pictures_total", "pictures")),
    Panel("To the first picture", "s", quantiles("plait_time_to_first_picture_seconds")),
    Panel("To the first preview", "s", quantiles("plait_time_to_first_preview_seconds")),
    Panel("To each picture", "s", quantiles("plait_time_to_picture_seconds")),
    Panel("Denoise step", "s", quantiles("plait_denoise_step_seconds")),
    Panel("Denoising, in a request", "s", quantiles("plait_request_phase_seconds", 'phase="denoise"')),
    Panel("VAE: latents to pixels", "s", quantiles("plait_vae_decode_seconds")),
    Panel("Guidance branches", "short", rate("plait_guidance_branches_total", "fate")),
    Panel("Input pictures encoded", "short", total_rate("plait_pictures_encoded_total", "pictures")),
]

RELIABILITY = [
    Panel("Engine processes started", "short", by_pod("plait_engine_starts")),
    Panel("Store lost", "bool", by_pod("plait_store_absent")),
    Panel("Times the store went away", "short", total_rate("plait_store_absences_total", "absences")),
    Panel("Streams resumed", "short", rate("plait_stream_resumes_total", "result")),
    Panel("Requests taken over", "short", rate("plait_takeovers_total", "phase")),
    Panel("Writes fenced off", "short", total_rate("plait_fenced_writes_total", "writes")),
    Panel("Quarantined", "short", total_rate("plait_quarantined_total", "requests")),
    Panel("Deadlines exceeded", "short", total_rate("plait_deadlines_exceeded_total", "requests")),
    Panel("Idempotent repeats", "short", total_rate("plait_idempotency_hits_total", "repeats")),
    Panel("Appends to the store", "s", quantiles("plait_log_append_seconds")),
    Panel("Draining", "bool", by_pod("plait_draining")),
    Panel("Turned away by a full queue", "short", total_rate("plait_queue_refusals_total", "requests")),
]

DASHBOARDS = {"service": SERVICE, "engine": ENGINE, "pictures": PICTURES, "reliability": RELIABILITY}


def dashboard(name: str, panels: list[Panel]) -> dict[str, object]:
    """Return one dashboard as Grafana reads it."""
    return {
        "uid": f"plait-{name}",
        "title": f"Plait / {name.capitalize()}",
        "tags": ["plait"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
                _variable("namespace", "label_values(plait_engine_ready, namespace)"),
                _variable("pod", 'label_values(plait_engine_ready{namespace=~"$namespace"}, pod)'),
            ]
        },
        "panels": [_panel(index, panel) for index, panel in enumerate(panels)],
    }


def _variable(name: str, query: str) -> dict[str, object]:
    """A choice of several, all by default. All matches series without the label too: outside Kubernetes there is neither."""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(index: int, panel: Panel) -> dict[str, object]:
    row, column = divmod(index, PANELS_IN_A_ROW)
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": index + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"x": column * PANEL_WIDTH, "y": row * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + k), "datasource": source, "expr": query.replace("$selector", SELECTOR), "legendFormat": legend}
            for k, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def rendered(name: str) -> str:
    """Return the file of one dashboard."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1) + "\n"


def main() -> None:
    """Rewrite the files."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (DIRECTORY / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
