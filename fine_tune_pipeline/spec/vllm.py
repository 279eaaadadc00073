"""Section `deployment.vllm`: the endpoint's answers come from vLLM servers of one's own."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section
from fine_tune_pipeline.spec.paths import is_url

if TYPE_CHECKING:
    from fine_tune_pipeline.spec.use_case import UseCaseSpec

MaxLoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
"""What vLLM's `--max-lora-rank` may be."""

VERSION_NAME = "{version}"


class VllmSpec(Section):
    """vLLM servers that hold the base model, and how adapters come to them."""

    urls: list[Annotated[str, Field(pattern=r"^https?://[^/\s]+/?$")]] = Field(
        min_length=1, description="Address of each replica without a path, such as http://vllm-0.vllm:8000. All serve the same base model."
    )
    replicas: Literal["listed", "dns"] = Field(
        default="listed",
        description="listed: each of `urls` is one replica. dns: each name stands for as many as it has addresses, looked up again and "
        "again, as with a headless service of Kubernetes (http only).",
    )
    api_key_variable: str | None = Field(
        default="VLLM_API_KEY",
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable that holds the key of `--api-key`; never the key. null: the servers ask for none.",
    )
    mode: Literal["runtime", "static"] = Field(
        default="runtime",
        description="runtime: adapters are loaded while vLLM runs (VLLM_ALLOW_RUNTIME_LORA_UPDATING=True). static: nothing is loaded; the "
        "servers must have the adapter by `--lora-modules` or from a bucket, else the rollout says what is missing.",
    )
    base: str = Field(default="base", min_length=1, description="Name of the base model there: `--served-model-name`.")
    model_name: str = Field(
        default=VERSION_NAME,
        pattern=r"^([^{}\s]|\{base\}|\{version\}|\{folder\})+$",
        description="Name of a version there. {version} stands for `<use case>-v<number>`, {base} for `base`, {folder} for the folder in "
        'which its adapter lies. Ray Serve LLM wants "{base}:{folder}".',
        # Use cases from before keep what is written down of them.
        exclude_if=lambda name: name == VERSION_NAME,
    )
    adapters_at: str = Field(
        min_length=1, description="Folder (absolute, or beside the use case's file) or URL to which adapters are copied; vLLM reads them."
    )
    seen_as: str | None = Field(
        default=None,
        pattern="^/",
        description="The same folder as a path inside vLLM's containers, where it differs from `adapters_at`; needed for a URL, "
        "unless they take adapters from it by {folder}.",
    )
    max_lora_rank: MaxLoraRank = Field(default=16, description="As of `--max-lora-rank`; an adapter of a larger rank is refused.")
    tolerance: float = Field(
        default=0.9,
        ge=0.5,
        le=1,
        description="Least share of answers that must equal the evaluated ones; below 0.98 their score must be the same too. bfloat16 and "
        "neighbours in a batch move single answers.",
    )
    timeout_seconds: float = Field(default=60.0, gt=0, le=600, description="Of one request, all tries together; then HTTP 504.")
    load_seconds: float = Field(default=120.0, gt=0, description="Longest wait until a replica has loaded an adapter.")
    requests_at_once: int = Field(default=64, ge=1, le=512, description="At all replicas together; more wait in the endpoint's queue.")

    @model_validator(mode="after")
    def _a_name_of_its_own_for_each_version(self) -> Self:
        if not ("{version}" in self.model_name or "{folder}" in self.model_name):
            raise ValueError(
                f"model_name: got {self.model_name}, want {{version}} or {{folder}} in it, or all versions would have one name"
            )
        return self

    @model_validator(mode="after")
    def _a_place_that_vllm_can_read(self) -> Self:
        by_folder = self.mode == "static" and "{folder}" in self.model_name
        if is_url(self.adapters_at) and self.seen_as is None and not by_folder:
            raise ValueError(
                f"seen_as: got nothing, want the path at which vLLM's containers see {self.adapters_at}; vLLM loads adapters from a path"
            )
        return self

    @model_validator(mode="after")
    def _names_that_can_be_looked_up(self) -> Self:
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"urls: got {', '.join(self.urls)}, want each replica once")
        encrypted = [url for url in self.urls if url.startswith("https://")]
        if self.replicas == "dns" and encrypted:
            raise ValueError(f"urls: got {encrypted[0]} with replicas: dns, want http://; a certificate is for the name, not its addresses")
        return self


def refuse_unservable(spec: "UseCaseSpec") -> None:
    """Refuse what vLLM cannot serve beside its base model, before anything is trained.

    Raises:
        ValueError: names the field, what is wanted, and why.
    """
    vllm, technique = spec.deployment.vllm, spec.technique
    if vllm is None:
        return
    if any(candidate.type == "api" for candidate in spec.base_model.candidates if not isinstance(candidate, str)):
        raise ValueError("deployment.serving: got vllm with a base model of type api, which stays at its provider; want embedded")
    if spec.base_model.added_tokens:
        raise ValueError("base_model.added_tokens: got some with deployment.serving vllm, which takes no rows of the embedding; want none")
    if technique.type == "full":
        raise ValueError("technique.type: got full with deployment.serving vllm, want lora or qlora; a whole model is a base of its own")
    if technique.type == "auto":
        raise ValueError(
            f"technique.type: got auto with deployment.serving vllm, want lora or qlora with a rank up to {vllm.max_lora_rank}; auto may "
            "choose all weights, or a larger rank, and vLLM would refuse what was trained"
        )
    for name, wrong in (
        ("use_dora: true", technique.use_dora),
        (f"experts: {technique.experts}", technique.experts != "frozen"),
        ("router: train", technique.router == "train"),
    ):
        if wrong:
            raise ValueError(f"technique: got {name} with deployment.serving vllm, which loads plain LoRA of linear layers only")
    # PiSSA's difference to the weights before it has twice the rank.
    rank = technique.rank * (2 if technique.use_pissa else 1)
    if rank > vllm.max_lora_rank:
        twice = f" (rank {technique.rank}, doubled by use_pissa)" if technique.use_pissa else ""
        raise ValueError(
            f"deployment.vllm.max_lora_rank: got {vllm.max_lora_rank}, and the adapter will have rank {rank}{twice}; start vLLM with a "
            "larger --max-lora-rank and write it here, or lower technique.rank"
        )
