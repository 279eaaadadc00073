"""Whether an answer fits the task, as the endpoint sees it: for each logged answer, and for corrections before they are taken."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

CLOSED_TYPES = ("boolean", "integer", "number", "null")


@dataclass(frozen=True)
class AnswerShape:
    """What a valid answer looks like. Without schema and labels any text that is not empty is one."""

    schema: dict[str, Any] | None = None
    labels: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether a valid answer can hold no free text, hence no personal data."""
        if self.labels:
            return True
        if self.schema is None or self.schema.get("additionalProperties") is not False:
            return False
        return all(_is_closed(field) for field in self.schema.get("properties", {}).values())

    def problem(self, text: str) -> str | None:
        """Why a text is not a valid answer; None if it is."""
        if not text.strip():
            return "the answer is empty"
        if self.labels:
            return None if text.strip() in self.labels else f"want exactly one of {', '.join(self.labels[:20])}"
        if self.schema is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return "the answer is not JSON"
        error = next(iter(self._validator.iter_errors(value)), None)
        return None if error is None else f"{'.'.join(map(str, error.absolute_path)) or 'the answer'}: {error.message}"

    @cached_property
    def _validator(self) -> "Validator":
        from jsonschema.validators import validator_for
        from referencing.jsonschema import EMPTY_REGISTRY

        assert self.schema is not None
        return validator_for(self.schema)(self.schema, registry=EMPTY_REGISTRY)


def _is_closed(field: Any) -> bool:
    return isinstance(field, dict) and ("enum" in field or "const" in field or field.get("type") in CLOSED_TYPES)
