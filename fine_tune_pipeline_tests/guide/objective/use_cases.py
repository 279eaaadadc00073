"""Small use cases for tests, made from the YAML's own shape."""

import json
from pathlib import Path
from typing import Any

from fine_tune_pipeline.spec.use_case import UseCaseSpec

GOAL = "Turn a customer's message into intent and urgency, so that it reaches the right team unread"

SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["card_lost", "refund", "login"]},
        "urgency": {"enum": ["low", "high"]},
        "amount": {"type": "number", "description": "money that is named"},
    },
    "required": ["intent", "urgency"],
    "additionalProperties": False,
}


def use_case(folder: Path, *, schema: Any = SCHEMA, held_out: int | None = None, **changes: Any) -> UseCaseSpec:
    """An extraction use case in `folder`; keywords replace parts of its objective, or are sections of their own; `held_out` writes a test
    file with so many rows."""
    sections = {name: changes.pop(name) for name in ("base_model", "environment") if name in changes}
    (folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    dataset: dict[str, Any] = {"sources": [{"type": "jsonl", "path": "rows.jsonl"}]}
    if held_out is not None:
        (folder / "held_out.jsonl").write_text(
            "\n".join(json.dumps({"prompt": "x", "completion": "y"}) for _ in range(held_out)), encoding="utf-8"
        )
        dataset["held_out"] = [{"type": "jsonl", "path": "held_out.jsonl"}]
    whole = {
        "goal": GOAL,
        "task": {"type": "extraction", "schema": "schema.json"},
        "success": [{"metric": "exact_match", "at_least": 0.65}],
        **changes,
    }
    return UseCaseSpec.model_validate({"name": "triage", "objective": whole, "dataset": dataset, **sections}).at(folder)
