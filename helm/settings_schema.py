"""Writes the `settings` of the chart's schema from `server.settings`, so that the two are one to one: `python -m helm.settings_schema`.

What the chart itself decides (addresses, ports, the model's path, secrets, the trace collector) is left out.
"""

from __future__ import annotations

import json
from pathlib import Path

from server.settings import Settings

SCHEMA = Path(__file__).parent / "plait" / "values.schema.json"

DECIDED_BY_THE_CHART = frozenset(
    {
        "host",
        "port",
        "metrics_host",
        "metrics_port",
        "model",
        "model_name",
        "api_key",
        "keys_file",
        "insecure",
        "store",
        "fault_dir",
        "otlp_endpoint",
    }
)

Schema = dict[str, object]
KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "pattern", "anyOf", "description")


def settings_schema() -> Schema:
    """Return the schema of the chart's `settings`."""
    whole = Settings.model_json_schema()
    fields = {name: field for name, field in whole["properties"].items() if name not in DECIDED_BY_THE_CHART}
    return {
        "type": "object",
        "description": "options of plait serve, with underscores",
        "additionalProperties": False,
        "properties": {name: _field(field, whole.get("$defs", {})) for name, field in sorted(fields.items())},
    }


def _field(field: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return one option's schema, its references resolved and its default left to the server."""
    reference = field.get("$ref")
    if isinstance(reference, str):
        field = {**definitions[reference.rsplit("/", 1)[1]], **field}
    kept = {key: field[key] for key in KEPT if key in field}
    if "anyOf" in kept and isinstance(field["anyOf"], list):
        kept["anyOf"] = [_field(choice, definitions) for choice in field["anyOf"]]
    return kept


def main() -> None:
    """Rewrite the schema file."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
