"""Adapters in buckets: written by us to servers that speak the protocols of S3 and Google; found and fetched by Ray's own code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from upath import UPath

import fine_tune_pipeline
from fine_tune_pipeline.programs.vllm.adapter_files import SUMS, NotPublished, publish
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline_tests.guide.dataset.bucket_servers import amazon, google
from fine_tune_pipeline_tests.programs.vllm.world import Weights

RAY_FILE = Path(fine_tune_pipeline.__file__).parents[1] / "docker" / "ray_serve" / "vllm.yaml"
BY_RAY = """
import asyncio, json, sys, types, yaml

# The extra `serve` brings it; nothing here uses it.
for name in ("grpc_reflection", "grpc_reflection.v1alpha", "grpc_reflection.v1alpha.reflection"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["grpc_reflection.v1alpha"].reflection = None

from ray.llm._internal.common.utils.cloud_utils import CloudFileSystem
from ray.llm._internal.common.utils.lora_utils import get_base_model_id, get_lora_id, get_lora_model_ids, get_object_from_cloud
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.serve.schema import ServeDeploySchema

file, at, folder = sys.argv[1:]
(application,) = ServeDeploySchema.model_validate(yaml.safe_load(open(file, encoding="utf-8"))).applications
(config,) = [LLMConfig.model_validate(each) for each in application.args["llm_configs"]]
(name,) = get_lora_model_ids(at, config.model_id)
uri = f"{at}/{get_lora_id(name)}"
CloudFileSystem.download_files(folder, uri)
print(json.dumps({
    "builder": application.import_path,
    "base": config.model_id,
    "bucket": config.lora_config.dynamic_lora_loading_path,
    "longest": config.max_request_context_length,
    "name": name,
    "base_of_name": get_base_model_id(name),
    "rank": json.loads(asyncio.run(get_object_from_cloud(uri + "/adapter_config.json")))["r"],
}))
"""


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a folder in a bucket."""
    with amazon() if request.param == "s3" else google():
        yield f"{request.param}://tickets/adapters"


def test_an_adapter_is_copied_into_a_bucket_once_and_a_copy_that_somebody_changed_is_not_taken(bucket: str, weights: Weights):
    first, second = (publish(adapter, name="bank-v1", at=bucket) for adapter in weights.adapters)
    assert first != second
    target = UPath(bucket) / first
    assert {file.name for file in target.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", SUMS}
    assert (target / "adapter_model.safetensors").read_bytes() == (weights.adapters[0] / "adapter_model.safetensors").read_bytes()
    (target / SUMS).write_text("as it was", encoding="utf-8")
    assert publish(weights.adapters[0], name="bank-v1", at=bucket) == first
    assert (target / SUMS).read_text(encoding="utf-8") == "as it was"
    (target / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(NotPublished, match="somebody has changed it"):
        publish(weights.adapters[0], name="bank-v1", at=bucket)


def test_ray_reads_its_file_and_finds_and_fetches_an_adapter_under_the_name_that_we_ask_for(weights: Weights, tmp_path: Path):
    at = yaml.safe_load(RAY_FILE.read_text(encoding="utf-8"))["applications"][0]["args"]["llm_configs"][0]["lora_config"]
    upstream = VllmUpstream(
        urls=("http://ray:8000",), mode="static", base="base", model_name="{base}:{folder}", adapters_at="s3://tickets/adapters",
        seen_as="s3://tickets/adapters", max_lora_rank=16,
    )  # fmt: skip
    with amazon():
        published = publish(weights.adapters[0], name="bank-v1", at=upstream.adapters_at)
        command = [sys.executable, "-c", BY_RAY, str(RAY_FILE), upstream.adapters_at, str(tmp_path / "fetched")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "builder": "ray.serve.llm:build_openai_app",
        "base": "base",
        "bucket": at["dynamic_lora_loading_path"],
        "longest": 4096,
        "name": upstream.named("bank-v1", path=f"{upstream.seen_as}/{published}"),
        "base_of_name": "base",
        "rank": 4,
    }
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "fetched" / file).read_bytes() == (weights.adapters[0] / file).read_bytes()
