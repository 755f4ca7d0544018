"""Custom resources by the schemas of those who define them: Kubernetes' own, which `kubernetes_validate` brings, do not have these kinds.

A cluster drops a field that a definition does not name, and the chart would silently not do what it says; here such a field is an error.
The schemas in ``schemas/`` are made from released definitions, without their prose, their status and the rules that need a cluster to be
evaluated. To renew one, give the definition's file and where it was released:

    python -m tests.helm.custom_resources keda.sh_scaledobjects.yaml https://github.com/kedacore/keda/blob/v2.20.2/config/crd/bases/...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema_rs
import kubernetes_validate
import yaml

from tests.helm.chart import Manifest

SCHEMAS = Path(__file__).parent / "schemas"
LICENCE = "Apache-2.0"
"""Of all the projects whose definitions are kept here."""

KUBERNETES = "1.37"
Schema = dict[str, object]


class InvalidObject(Exception):
    """An object is not what its kind allows; the message names the field."""


def validate(document: Manifest) -> None:
    """Check one object by the schema of its kind, unknown fields refused.

    Raises:
        InvalidObject: it is not valid, or its kind is neither Kubernetes' own nor kept here.
    """
    if schema_file(document).exists():
        _validate_custom(document)
    else:
        _validate_core(document)


def schema_file(document: Manifest) -> Path:
    """Return where the schema of an object's kind lies, if it is a custom one."""
    group, _, version = str(document["apiVersion"]).partition("/")
    return SCHEMAS / f"{group}_{version}_{document['kind']}.json"


def _validate_custom(document: Manifest) -> None:
    errors = [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in _schema(document).iter_errors(document)]
    if errors:
        raise InvalidObject(f"{document['kind']}: {'; '.join(errors)}")
    for template in _pod_templates(document):
        _validate_core({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "within"}, "template": template})


def _validate_core(document: Manifest) -> None:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        raise InvalidObject(f"{document['apiVersion']} {document['kind']}: {error}") from error


def _schema(document: Manifest) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(json.loads(schema_file(document).read_text(encoding="utf-8"))["schema"])


POD_TEMPLATES = {"leaderTemplate", "workerTemplate"}
"""Fields that hold a pod template: Kubernetes' own schema checks these, and theirs is left out of the kept one."""


def _pod_templates(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in POD_TEMPLATES:
                yield inner
            else:
                yield from _pod_templates(inner)


def strict_schema(definition: Schema) -> Schema:
    """Make a strict JSON schema of one level of a definition's OpenAPI schema."""
    kept = {name: value for name, value in definition.items() if name in PLAIN_WORDS}
    for name in ("items", "additionalProperties"):
        if isinstance(inner := definition.get(name), dict):
            kept[name] = strict_schema(inner)
    if isinstance(fields := definition.get("properties"), dict):
        kept["properties"] = {name: {} if name in POD_TEMPLATES else strict_schema(field) for name, field in fields.items()}
        if not definition.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    return kept


BOUNDS = {"minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"}
PLAIN_WORDS = BOUNDS | {"type", "enum", "required", "pattern", "uniqueItems", "not", "oneOf", "anyOf", "allOf"}
"""Words that mean the same in OpenAPI and JSON Schema. The last four hold rules between fields, which are named beside them."""


def main() -> None:
    """Write the schema of a definition's stored version."""
    path, source = sys.argv[1:]
    definition = next(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))["spec"]
    (version,) = (version for version in definition["versions"] if version["storage"])
    whole = version["schema"]["openAPIV3Schema"]
    whole["properties"].pop("status", None)
    stored = {"source": source, "licence": LICENCE, "schema": strict_schema(whole)}
    target = schema_file({"apiVersion": f"{definition['group']}/{version['name']}", "kind": definition["names"]["kind"]})
    target.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
