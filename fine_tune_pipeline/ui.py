"""A plain result as the web UI shows it: numbers that become plots, tables, Markdown, checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.resources.store import Kept


def shown(value: Any) -> dg.MetadataValue:
    """A metadata value: a list of dicts is a table, a list of plain values is a line, the rest is itself."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return table(value)
    if isinstance(value, list | tuple):
        return dg.MetadataValue.text(", ".join(str(item) for item in value) or "none")
    if isinstance(value, Mapping):
        return dg.MetadataValue.json(dict(value))
    if value is None:
        return dg.MetadataValue.text("none")
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    return dg.MetadataValue.text(str(value))


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Rows with the same columns; values that a table cannot hold become text."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    records = [dg.TableRecord({name: _cell(row.get(name)) for name in columns}) for row in rows]
    schema = dg.TableSchema(columns=[dg.TableColumn(name, type=_column_type(rows, name)) for name in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def materialized(kept: Kept, *, beside: Built | None = None) -> dg.MaterializeResult:
    """What an asset returns: the artifact's own metadata and checks, where it lies, and whether it was made now.

    Args:
        beside: what was seen of the artifact without being part of it, such as how it differs from the version before.
    """
    manifest = kept.artifact.manifest
    metadata: dict[str, Any] = {}
    seen = beside or Built()
    for built in (manifest.built, seen):
        metadata |= {name: shown(value) for name, value in built.metadata.items()}
        metadata |= {name: dg.MetadataValue.md(text) for name, text in built.markdown.items()}
    metadata |= {"reused": kept.reused, "fingerprint": manifest.fingerprint, "folder": dg.MetadataValue.path(str(kept.artifact.folder))}
    metadata["seconds"] = manifest.seconds
    if kept.changed:
        metadata["changed"] = ", ".join(kept.changed)
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(manifest.fingerprint),
        check_results=[check_result(check) for check in (*manifest.built.checks, *seen.checks)],
    )


def check_result(check: Check) -> dg.AssetCheckResult:
    """A check as Dagster shows it; one that does not block is only a warning."""
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=check.description,
        metadata={name: shown(value) for name, value in check.metadata.items()},
    )


def blocking(key: Sequence[str], **descriptions: str) -> list[dg.AssetCheckSpec]:
    """Specs of checks that stop everything downstream when they fail; name=what it asks."""
    return [dg.AssetCheckSpec(name, asset=dg.AssetKey(list(key)), description=said, blocking=True) for name, said in descriptions.items()]


def advisory(key: Sequence[str], **descriptions: str) -> list[dg.AssetCheckSpec]:
    """Specs of checks that only warn."""
    return [dg.AssetCheckSpec(name, asset=dg.AssetKey(list(key)), description=said, blocking=False) for name, said in descriptions.items()]


def _cell(value: Any) -> str | int | float | bool | None:
    return (
        value
        if value is None or isinstance(value, str | int | float | bool)
        else ", ".join(map(str, value))
        if isinstance(value, list | tuple)
        else str(value)
    )


def _column_type(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if values and all(isinstance(value, bool) for value in values):
        return "bool"
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return "int"
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "float"
    return "string"
