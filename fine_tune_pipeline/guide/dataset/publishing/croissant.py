"""Croissant metadata (https://docs.mlcommons.org/croissant/docs/croissant-spec.html, 1.0): what machines that look for data sets read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.fingerprint import file_sha256
from fine_tune_pipeline.guide.dataset.publishing.record_schema import FIELDS

CROISSANT = "croissant.json"

_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification asks for these names, used or not."""

_KINDS = {"jsonl": "application/jsonlines", "chat.jsonl": "application/jsonlines", "parquet": "application/x-parquet"}


def write_croissant(folder: Path, content: Mapping[str, Any], *, parts: Sequence[str]) -> None:
    """Write `croissant.json` beside the files of the parts, which must be there already.

    Args:
        content: of the data card.
        parts: their names.
    """
    metadata = croissant(folder, content, parts=parts)
    (folder / CROISSANT).write_text(json.dumps(metadata, indent=2, ensure_ascii=False), encoding="utf-8")


def croissant(folder: Path, content: Mapping[str, Any], *, parts: Sequence[str]) -> dict[str, Any]:
    """The metadata; records are read from the Parquet files, where every column is there in every row."""
    licences = list(dict.fromkeys(content["licences"].values()))
    rows = ", ".join(f"{rows} {name}" for name, rows in content["rows"].items())
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": content["use_case"],
        "description": f"Examples for fine-tuning: {rows}. {content['split']['said']}",
        "license": licences,
        "rai:dataLimitations": content["limits"],
        "rai:personalSensitiveInformation": _personal_data(content),
        "distribution": [_file(folder, f"{part}.{kind}", format_) for part in parts for kind, format_ in _KINDS.items()],
        "recordSet": [_records(part) for part in parts],
    }


def _personal_data(content: Mapping[str, Any]) -> str:
    found = ", ".join(f"{entity} {count}" for entity, count in content["personal_data"].items()) or "nothing"
    return f"Looked for by {content['personal_data_detector']}, and replaced: {found}."


def _file(folder: Path, name: str, format_: str) -> dict[str, Any]:
    path = folder / name
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": format_,
        "sha256": file_sha256(path),
    }


def _records(part: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": part,
        "name": part,
        "key": {"@id": f"{part}/id"},
        "field": [_field(part, name) for name in FIELDS],
    }


def _field(part: str, name: str) -> dict[str, Any]:
    kind, id_ = FIELDS[name].get("type"), f"{part}/{name}"
    field = {"@type": "cr:Field", "@id": id_, "name": name, "description": FIELDS[name]["description"]}
    source = {"fileObject": {"@id": f"{part}.parquet"}, "extract": {"column": name}}
    if kind != "object":
        return {**field, "dataType": "sc:Boolean" if kind == "boolean" else "sc:Text", "source": source}
    # A map, which readers give as pairs.
    pair = [
        {
            "@type": "cr:Field",
            "@id": f"{id_}/{side}",
            "name": side,
            "dataType": "sc:Text",
            "source": {**source, "transform": {"jsonPath": f"$[{place}]"}},
        }
        for place, side in enumerate(("name", "value"))
    ]
    return {**field, "repeated": True, "subField": pair}
