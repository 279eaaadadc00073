"""Answers of models that were asked while data was made: kept by the hash of the request, so that nothing is asked or paid for twice."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from upath import UPath


@dataclass(frozen=True)
class Replies:
    """One JSON file a request below `root`, a folder or a URL that fsspec knows."""

    root: UPath

    def answer(self, request: Mapping[str, Any]) -> str | None:
        """What was answered to this very request, if it was asked before."""
        path = self._path(request)
        return json.loads(path.read_text(encoding="utf-8"))["answer"] if path.exists() else None

    def keep(self, request: Mapping[str, Any], answer: str) -> None:
        """Remember the answer; several threads may do so at once."""
        path = self._path(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"request": request, "answer": answer}, ensure_ascii=False, indent=1)
        if path.protocol not in ("", "file", "local"):
            path.write_text(text, encoding="utf-8")
            return
        partial = Path(f"{path}.{uuid4().hex[:8]}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, str(path))

    def _path(self, request: Mapping[str, Any]) -> UPath:
        text = json.dumps(request, sort_keys=True, ensure_ascii=False)
        return self.root / f"{hashlib.sha256(text.encode('utf-8')).hexdigest()}.json"
