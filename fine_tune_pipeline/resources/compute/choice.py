"""Which place the environment names: a kind, or a YAML file with its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fine_tune_pipeline.resources.compute.placed import KINDS, PlacedCompute

VARIABLE = "FINE_TUNE_PIPELINE_COMPUTE"


class UnknownPlace(Exception):
    """The environment names no kind of place, or a file that is none: all that is wrong with it."""


def chosen_compute(environment: Mapping[str, str]) -> PlacedCompute:
    """The place that FINE_TUNE_PIPELINE_COMPUTE names; this machine by default. The configuration of a run can choose another.

    Raises:
        UnknownPlace: the kind or a setting is not known, a setting is missing, or the file cannot be read.
    """
    named = environment.get(VARIABLE, "local")
    if named.endswith((".yaml", ".yml")):
        settings, where = _read(Path(named)), named
    else:
        settings, where = {"kind": named}, VARIABLE
    kind = settings.get("kind")
    if kind not in KINDS:
        raise UnknownPlace(
            f"{where}: kind: got {kind!r}, want one of {', '.join(KINDS)}, or in {VARIABLE} a YAML file with a kind and its settings"
        )
    unknown = sorted(settings.keys() - KINDS[kind].model_fields.keys())
    if unknown:
        raise UnknownPlace(f"{where}: {', '.join(unknown)}: unknown; {kind} has {', '.join(sorted(KINDS[kind].model_fields))}")
    missing = [name for name, field in KINDS[kind].model_fields.items() if field.is_required() and settings.get(name) is None]
    if missing:
        way = f"write a YAML file with its settings and name it in {VARIABLE}" if where == VARIABLE else "add it to the file"
        raise UnknownPlace(f"{where}: {kind} needs {', '.join(missing)}: {way} (docs/compute_{kind}.md)")
    try:
        return PlacedCompute(place=KINDS[kind](**settings))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc'])) or kind}: got {one['input']!r}: {one['msg']}" for one in error.errors())
        raise UnknownPlace(f"{where}: {said}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnknownPlace(f"{VARIABLE}: {path} cannot be read as YAML: {error}") from error
    if not isinstance(read, dict):
        raise UnknownPlace(f"{path}: got {type(read).__name__}, want settings, such as `kind: docker`")
    return read
