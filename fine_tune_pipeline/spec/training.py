"""Section `training` (step 6): how long and how hard. `auto` is resolved by stated rules and shown back as a number."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fine_tune_pipeline.spec.base import Section, unset
from fine_tune_pipeline.spec.safety import CanarySpec
from fine_tune_pipeline.spec.search import SearchSpec

Auto = Literal["auto"]

Precision = Literal["float32", "bfloat16"]
"""Of the numbers that a model computes with."""

Compiling = Literal["auto", "never", "always"]
"""Whether the layers of a model go through torch.compile."""


VALIDATION_LOSS = "validation_loss"
"""What early stopping looks at unless it is told a metric of the task."""


class EarlyStopping(Section):
    """Ends a training that gets no better any more. The weights of the best look are kept, also when it trains to the end."""

    metric: str = Field(
        default=VALIDATION_LOSS,
        description="validation_loss, or a metric of the task, such as exact_match: then answers to some validation rows are generated at "
        "every look, which there are three of in an epoch.",
    )
    patience: int = Field(default=2, ge=1, description="Looks in a row without a gain, after which training ends.")
    min_delta: float = Field(default=0.0, ge=0, description="A gain that is not larger is none.")
    rows: int = Field(default=64, ge=1, description="Validation rows that are answered for a metric of the task.")


class CheckpointSpec(Section):
    """When a training writes down where it is, so that what ends it costs no more than what came after."""

    minutes: float = Field(default=5.0, gt=0, description="Since the last one, or since the begin.")
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps since the last one; whichever comes first.")
    keep: int = Field(default=2, ge=1, description="So many of the newest; all go when the training has finished.")


HOW_IT_IS_KEPT = {"checkpoints", "stall_minutes"}
"""Fields that decide nothing of what is planned or learned."""


class PreferenceSpec(Section):
    """Learning from two answers to one prompt, of which people preferred one (sources with `layout: preference`)."""

    type: Literal["dpo", "orpo", "kto"] = Field(
        description="dpo: pairs, for a model that knows the task. orpo: pairs, and the preferred answers are learned as well: from a base "
        "model in one go. kto: each answer by itself, wanted or not; rows without a rejected answer count as wanted."
    )
    beta: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description="dpo, kto: how closely the model is held to the untrained one. orpo: weight of the comparison.",
    )


class TrainingSpec(Section):
    """Hyper-parameters of fine-tuning: supervised, or from compared answers."""

    epochs: Auto | Annotated[float, Field(gt=0, le=20)] = Field(
        default="auto", description="Passes over the training set; 1 to 3 is usual."
    )
    learning_rate: Auto | Literal["range_test"] | Annotated[float, Field(gt=0, le=0.1)] = Field(
        default="auto",
        description="LoRA wants about ten times that of full tuning. range_test: a short run before the training looks for it, between a "
        "third and three times what auto would take.",
    )
    effective_batch: Auto | Annotated[int, Field(ge=1, le=4096)] = Field(
        default="auto", description="Rows per optimizer step; 8 to 32 is usual."
    )
    max_length: Auto | Annotated[int, Field(ge=16, le=131072)] = Field(
        default="auto", description="Tokens of prompt and answer; auto: room for the longest row."
    )
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    loss_on: Literal["completion", "all"] = "completion"
    preference: PreferenceSpec | None = Field(
        default=None, description="Learn from compared answers; by default the right answers alone are learned."
    )
    over_long_limit: float = Field(
        default=0.02, ge=0, le=1, description="Share of rows longer than max_length that may be left out, counted and named."
    )
    dtype: Auto | Precision = Field(
        default="auto", description="Of the computation; auto: bfloat16 where the device has units for it. Adapters are kept in float32."
    )
    compile: Compiling = Field(
        default="auto",
        description="torch.compile for each layer: the same mathematics, faster once the first steps have compiled it. auto: on an "
        "accelerator, where it can be done. always: also on a CPU, where it seldom pays; an error where it cannot be done.",
        exclude_if=lambda wanted: wanted == "auto",
    )
    seed: int = 0
    neftune_alpha: Annotated[float, Field(gt=0, le=100)] | None = Field(
        default=None,
        description="NEFTune: noise on the embeddings while training, against learning answers by their wording; 5 to 15 is usual. "
        "None: no noise.",
        exclude_if=unset,
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the probability that is wanted for all other tokens together; 0.1 is usual. Losses are shown without it.",
        exclude_if=unset,
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="End when it gets no better, and keep the best; None: always train to the end.", exclude_if=unset
    )
    canaries: CanarySpec | None = Field(
        default=None,
        description="Codes in the training rows that show what the model remembers of single rows; none by default.",
        exclude_if=unset,
    )
    search: SearchSpec | None = Field(
        default=None,
        description="Trials before the training that look for better numbers on validation rows (`docs/search.md`); None: no search.",
        exclude_if=unset,
    )
    checkpoints: CheckpointSpec = CheckpointSpec()
    stall_minutes: float = Field(
        default=30.0, gt=0, description="Without any progress, after which a training says where it stands, ends, and is tried again."
    )

    @model_validator(mode="after")
    def _canaries_are_learned(self) -> Self:
        if self.canaries is not None and self.preference is not None:
            raise ValueError("canaries: a code has no second answer to compare it with; leave canaries or preference away")
        return self

    @model_validator(mode="after")
    def _one_look_for_the_rate(self) -> Self:
        if self.search is not None and self.learning_rate == "range_test":
            raise ValueError("learning_rate: got range_test with search, which looks for the rate itself; leave learning_rate away")
        return self

    @model_validator(mode="after")
    def _answers_alone_are_compared(self) -> Self:
        if self.preference is not None and self.preference.type != "orpo" and self.loss_on == "all":
            raise ValueError(
                f"loss_on: got all with preference: {self.preference.type}, which compares answers to one prompt; leave loss_on away"
            )
        return self
