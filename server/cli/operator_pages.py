"""The pages of the documentation that list every setting and every metric; ``python -m server.cli.operator_pages`` renews them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from annotated_types import Ge, Gt, Le

from server.metrics import Metrics, Series
from server.settings import Settings, default_of, option_of, value_word

DOCS = Path(__file__).parents[2] / "docs"

SETTINGS_HEAD = """\
# Settings

Every option of `plait serve`, which `plait doctor` takes too. Each can be given in the environment instead: `--num-pages 4096` is
`PLAIT_NUM_PAGES=4096`, and a switch such as `--insecure` is `PLAIT_INSECURE=true` (`--no-prefix-cache` is `PLAIT_PREFIX_CACHE=false`). The
command line takes precedence over the environment. Large numbers (`N`, `BYTES`, `PIXELS`) may be abbreviated: `64k` is 65,536, `2g` is
2 × 1024³. The chart takes most of these options under `settings`, with underscores.

Written from the code; renew it with `python -m server.cli.operator_pages`.

| option | default | bounds | what it is |
| --- | --- | --- | --- |"""

METRICS_HEAD = """\
# Metrics

Every series of `/metrics`, in Prometheus' text format. A server that only its own machine can reach has it on its own port
(`curl -s http://127.0.0.1:8000/metrics`); one that others reach has it on `--metrics-port` alone. Times are in seconds. A histogram has
the lines `_bucket`, `_sum` and `_count`. What to watch, and when to worry: [alerts](alerts.md); dashboards are in
`helm/plait/files/dashboards`. The names that begin with `vllm:` are those that endpoint pickers of the Gateway API read.

Written from the code; renew it with `python -m server.cli.operator_pages`.

| name | kind | labels | what it is |
| --- | --- | --- | --- |"""


def settings_page() -> str:
    """Return the page of settings."""
    return "\n".join([SETTINGS_HEAD, *_settings(), ""])


def metrics_page() -> str:
    """Return the page of metrics."""
    return "\n".join([METRICS_HEAD, *(_series(series) for series in Metrics().catalogue), ""])


PAGES: Mapping[str, Callable[[], str]] = {"reference/settings.md": settings_page, "operations/metrics.md": metrics_page}


def _settings() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        is_switch = field.annotation is bool
        option = option_of(name) if is_switch else f"{option_of(name)} {value_word(name)}"
        default = "" if is_switch or not default_of(name) else f"`{default_of(name)}`"
        yield f"| `{_cell(option)}` | {default} | {_bounds(field.metadata)} | {_cell(field.description or '')} |"


def _bounds(rules: Iterable[object]) -> str:
    """Write what a number may be; nothing for what is no number."""
    said = []
    for rule in rules:
        match rule:
            case Ge(ge=least):
                said.append(f"from {least:,}")
            case Gt(gt=least):
                said.append(f"above {least:,}")
            case Le(le=most):
                said.append(f"to {most:,}")
            case _:
                pass
    return " ".join(said)


def _series(series: Series) -> str:
    labels = "; ".join(f"`{label}`{_values(tuple(values))}" for label, values in series.labels.items())
    return f"| `{series.name}` | {series.kind} | {labels} | {_cell(series.meaning)} |"


MAX_VALUES = 8
"""More of them are not listed: they are the error codes of the API."""


def _values(values: tuple[str, ...]) -> str:
    return f": {', '.join(values)}" if 0 < len(values) <= MAX_VALUES else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Rewrite the pages."""
    for path, page in PAGES.items():
        (DOCS / path).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
