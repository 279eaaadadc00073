"""Ray Serve LLM on this machine, in front of the stand-in for vLLM; written from the source of Ray 2.60 (`ray.llm`).

Its differences: adapters are folders of a bucket, called `<base>:<folder>`, listed as soon as they lie there and loaded with their first
request; there are no routes to load them and no key; a model's card has no path and no parent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fine_tune_pipeline_tests.programs.vllm.fake_vllm import Body, Vllm

CONFIG = "adapter_config.json"


@dataclass
class RayServe(Vllm):
    """One application of `ray.serve.llm:build_openai_app`."""

    key: str | None = None
    runtime: bool = False
    bucket: Path = Path()
    """Stands for what `lora_config.dynamic_lora_loading_path` names."""

    def _models(self, _: Any) -> tuple[int, Body]:
        folders = sorted(path.parent.name for path in self.bucket.glob(f"*/{CONFIG}"))
        cards = [_card(self.base, self.max_model_len), *(_card(f"{self.base}:{folder}", None) for folder in folders)]
        return 200, {"object": "list", "data": cards}

    def serves(self, name: str) -> bool:
        base, _, folder = name.partition(":")
        return base == self.base and (not folder or (self.bucket / folder / CONFIG).exists())

    def _path(self, name: str) -> str | None:
        if name == self.base:
            return None
        path = str(self.bucket / name.partition(":")[2])
        self.engine.add(path)
        self.adapters[name] = path
        return path


def _card(name: str, longest: int | None) -> Body:
    metadata = {"model_id": name, "input_modality": "text", "max_request_context_length": longest}
    return {"id": name, "object": "model", "owned_by": "organization-owner", "permission": [], "metadata": metadata}
