"""The JSON Schema of a whole YAML file, for editors; it lies beside the use cases as `use_case.schema.json`."""

from typing import Any

from fine_tune_pipeline.spec.reading import COMPONENT_TYPE
from fine_tune_pipeline.spec.use_case import UseCaseSpec


def json_schema() -> dict[str, Any]:
    """Draft 2020-12; `attributes` is the use case."""
    attributes = UseCaseSpec.model_json_schema(by_alias=True)
    definitions = attributes.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A use case of fine_tune_pipeline",
        "type": "object",
        "properties": {"type": {"const": COMPONENT_TYPE}, "attributes": attributes},
        "required": ["type", "attributes"],
        "additionalProperties": False,
        "$defs": definitions,
    }
