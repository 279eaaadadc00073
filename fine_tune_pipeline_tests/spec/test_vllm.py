"""`deployment.vllm`: what cannot be served is refused before anything is trained."""

from typing import Any

import pytest
from pydantic import ValidationError

from fine_tune_pipeline.guide.deployment.vllm import upstream_of
from fine_tune_pipeline.spec.use_case import UseCaseSpec

LEAST: dict[str, Any] = {"urls": ["http://vllm-0:8000/"], "adapters_at": "/shared/adapters"}
LORA: dict[str, Any] = {"type": "lora", "rank": 16}


def use_case(vllm: dict[str, Any] | None = LEAST, *, serving: str = "vllm", technique: dict[str, Any] = LORA, **more: Any) -> UseCaseSpec:
    return UseCaseSpec.model_validate(
        {
            "name": "bank",
            "objective": {
                "goal": "Send each message to the right team",
                "task": {"type": "question_answering"},
                "success": [{"metric": "exact_match", "at_least": 0.5}],
            },
            "dataset": {"sources": [{"type": "jsonl", "path": "messages.jsonl"}]},
            "technique": technique,
            "deployment": {"serving": serving, **({} if vllm is None else {"vllm": vllm})},
            **more,
        }
    )


def test_the_least_that_must_be_said():
    upstream = upstream_of(use_case())
    assert upstream is not None
    assert (upstream.urls, upstream.seen_as, upstream.mode, upstream.max_lora_rank) == (
        ("http://vllm-0:8000",), "/shared/adapters", "runtime", 16
    )  # fmt: skip
    assert upstream_of(use_case(None, serving="embedded")) is None


@pytest.mark.parametrize(
    ("vllm", "said"),
    [
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["vllm:8000"]}, "should match pattern"),
        ({"urls": ["http://vllm:8000/v1"]}, "should match pattern"),
        ({"urls": ["http://a:1", "http://a:1"]}, "want each replica once"),
        ({"urls": ["https://a:1"], "replicas": "dns"}, "want http://"),
        ({"adapters_at": "s3://bucket/adapters"}, "seen_as: got nothing"),
        ({"seen_as": "relative"}, "should match pattern"),
        ({"max_lora_rank": 17}, "Input should be 1, 8, 16"),
        ({"tolerance": 0.2}, "greater than or equal to 0.5"),
        ({"model_name": "{base}"}, "or all versions would have one name"),
        ({"model_name": "{base}:{adapter}"}, "should match pattern"),
        ({"model_name": "{version!r}"}, "should match pattern"),
        ({"model_name": "a {version}"}, "should match pattern"),
        ({"adapters_at": "s3://bucket/adapters", "model_name": "{base}:{folder}"}, "seen_as: got nothing"),
    ],
)
def test_a_wrong_section_is_refused(vllm: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        use_case({**LEAST, **vllm})


@pytest.mark.parametrize(
    ("technique", "said"),
    [
        ({"type": "auto"}, "want lora or qlora with a rank up to 16"),
        ({"type": "full"}, "got full"),
        ({**LORA, "use_dora": True}, "use_dora: true"),
        ({**LORA, "experts": "all"}, "experts: all"),
        ({**LORA, "router": "train"}, "router: train"),
        ({**LORA, "rank": 17}, "the adapter will have rank 17"),
        ({**LORA, "use_pissa": True}, r"rank 32 \(rank 16, doubled by use_pissa\)"),
    ],
)
def test_a_technique_whose_adapter_vllm_does_not_load_is_refused(technique: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        use_case(technique=technique)
    assert use_case(None, serving="embedded", technique=technique).technique.type == technique["type"]


@pytest.mark.parametrize(
    "technique", [LORA, {"type": "qlora", "rank": 8}, {**LORA, "rank": 8, "use_pissa": True}, {**LORA, "use_rslora": True}]
)
def test_plain_adapters_are_taken(technique: dict[str, Any]):
    assert use_case(technique=technique).deployment.serving == "vllm"


def test_other_bases_and_added_tokens_are_refused():
    with pytest.raises(ValidationError, match="added_tokens"):
        use_case(base_model={"added_tokens": ["<intent>"]})
    hosted = {"type": "api", "id": "small", "model": "gpt", "licence": "LicenseRef-X"}
    with pytest.raises(ValidationError, match="stays at its provider"):
        use_case(base_model={"candidates": [hosted]})


@pytest.mark.parametrize(("vllm", "serving"), [(None, "vllm"), (LEAST, "embedded")])
def test_a_setting_that_would_be_ignored_is_refused(vllm: dict[str, Any] | None, serving: str):
    with pytest.raises(ValidationError, match="want serving: vllm with vllm"):
        use_case(vllm, serving=serving)


def test_servers_that_take_adapters_from_a_bucket_by_folder_need_no_path_of_it():
    upstream = upstream_of(use_case({**LEAST, "adapters_at": "s3://bucket/adapters", "mode": "static", "model_name": "{base}:{folder}"}))
    assert upstream is not None
    assert (upstream.seen_as, upstream.model_name, upstream.takes_from_folder) == ("s3://bucket/adapters", "{base}:{folder}", True)


def test_a_use_case_with_names_as_they_were_is_written_down_as_it_was():
    written = use_case().deployment.model_dump(mode="json")["vllm"]
    assert "model_name" not in written
    assert use_case({**LEAST, "model_name": "{version}"}).deployment.model_dump(mode="json")["vllm"] == written


def test_an_endpoint_without_vllm_keeps_the_fingerprint_that_it_had():
    assert "vllm" not in use_case(None, serving="embedded").deployment.model_dump(mode="json")
