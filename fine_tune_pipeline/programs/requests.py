"""What each program is asked and what it answers: JSON files, so that a program runs anywhere a folder can be reached.

`python -m fine_tune_pipeline.programs.train --request request.json` needs nothing of Dagster. The answer is `result.json` in `output`,
written last and atomically: its presence means that everything beside it is whole. Nothing here imports torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fine_tune_pipeline.programs.contracts import Access, Contract, Read, Request, Written, identity
from fine_tune_pipeline.programs.decoding_requests import Decoding
from fine_tune_pipeline.programs.heap import EXACT_HEAP
from fine_tune_pipeline.programs.preference import Preference
from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
from fine_tune_pipeline.spec.base import unset
from fine_tune_pipeline.spec.dataset import PiiSpec
from fine_tune_pipeline.spec.traffic import GuardSpec, TrafficSpec
from fine_tune_pipeline.spec.training import Compiling, Precision

Parallel = Literal["ddp", "fsdp2"]
"""How several processes share a training. ddp: each has the whole model. fsdp2: each has a part of every weight, and gets the rest when it
is needed."""


class PromptFormat(Contract):
    """How an example becomes text. `instruction` is for systems that have not been trained on the task; empty for trained ones."""

    style: Literal["plain", "chat"] = "plain"
    instruction: str = ""


class Shot(Contract):
    """A worked example inside a few-shot prompt."""

    prompt: str
    completion: str


class Technique(Contract):
    """The resolved technique of step 4: everything in it changes the mathematics."""

    type: Literal["full", "lora", "qlora"]
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    use_dora: bool = False
    use_rslora: bool = False
    expert_rank: int = Field(default=0, description="Of the adapters beside routed experts; 0: the experts stay as they are.")
    use_pissa: bool = Field(default=False, exclude_if=unset)
    lora_plus_ratio: float | None = Field(default=None, exclude_if=unset)
    layers: tuple[int, ...] | None = Field(default=None, description="That get adapters, counted from 0; None: all.", exclude_if=unset)
    experts: tuple[int, ...] | None = Field(default=None, description="That learn if any do; None: all.", exclude_if=unset)
    router: Literal["frozen", "train"] = Field(default="frozen", exclude_if=unset)
    added_tokens: tuple[int, ...] = Field(
        default=(),
        description="Ids, ascending, of tokens that step 2 has added: their rows of embedding and head learn beside the adapters.",
        exclude_if=unset,
    )

    @property
    def label(self) -> str:
        """As people call it: full, lora, qlora, dora, qdora, rslora, lora+, pissa …, with `+ experts` where those learn too."""
        name = self.type.replace("lora", "pissa" if self.use_pissa else "dora" if self.use_dora else "lora")
        name = ("rs" if self.use_rslora else "") + name + ("+" if self.lora_plus_ratio else "")
        some = "" if self.experts is None else f"{len(self.experts)} "
        return name + (f" + {some}experts" if self.expert_rank else "") + (" + router" if self.router == "train" else "")


class EarlyStopping(Contract):
    """When a training ends before its last step; see `spec.training.EarlyStopping`."""

    metric: str
    patience: int
    min_delta: float
    rows: int


class Hyperparameters(Contract):
    """Resolved numbers of step 6: everything in it changes the mathematics."""

    learning_rate: float
    epochs: float
    effective_batch: int = Field(description="Rows per optimizer step.")
    max_length: int = Field(description="Tokens of prompt and completion together, end token included.")
    warmup_share: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    loss_on: Literal["completion", "all"] = "completion"
    seed: int = 0
    neftune_alpha: float | None = Field(default=None, description="Of the noise on embeddings; None: none.", exclude_if=unset)
    label_smoothing: float = Field(default=0.0, description="Reported losses stay without it.", exclude_if=unset)
    early_stopping: EarlyStopping | None = Field(default=None, exclude_if=unset)
    range_test: bool = Field(default=False, description="Whether `learning_rate` is only where a range test begins.", exclude_if=unset)
    preference: Preference | None = Field(default=None, description="None: the right answers are learned.", exclude_if=unset)

    @property
    def method(self) -> Literal["supervised", "dpo", "orpo", "kto"]:
        """What is learned from."""
        return "supervised" if self.preference is None else self.preference.type

    @property
    def sequences(self) -> int:
        """Of a row, that go through the model together."""
        return 1 if self.preference is None else self.preference.answers


class Placement(Contract):
    """Where and how it runs: changes speed and memory, not the mathematics (dtype apart, which the plan records)."""

    device: str = "cpu"
    dtype: Precision = "float32"
    micro_batch: int = Field(default=8, description="Rows per forward pass.")
    gradient_checkpointing: bool = False
    compile: Compiling = Field(
        default="never", description="Of the layers; auto: unless it cannot be done here.", exclude_if=lambda wanted: wanted == "never"
    )
    threads: int | None = Field(default=None, description="CPU threads; None leaves torch's own choice.")


class Tracking(Contract):
    """Where MLflow keeps the run. Credentials come from the environment."""

    uri: str
    experiment: str
    run_name: str
    tags: dict[str, str] = {}


class ConvertRequest(Request):
    """Turn GGUF weights into a folder of safetensors once (step 2)."""

    module = "fine_tune_pipeline.programs.convert"
    gguf: Read


class ConvertResult(Contract):
    """The converted folder (`<output>/model`), its weights' hash and what was read from it."""

    model: str
    weights_sha256: str
    parameters: int
    seconds: float


class InspectRequest(Request):
    """Load a base model from safetensors and say what it is (step 2)."""

    module = "fine_tune_pipeline.programs.inspect"
    model: Read


class InspectResult(Contract):
    """Measured, never believed from text: `parameters` counts tied weights once."""

    architecture: str
    parameters: int
    embedding_parameters: int
    hidden_size: int
    layers: int
    vocabulary: int
    context_tokens: int
    has_chat_template: bool
    weights_sha256: str
    load_seconds: float


class Prediction(Contract):
    """One answer. `logprob` is the mean log-probability of its tokens, None when a provider does not give it; `finished` says that it
    ended by itself."""

    id: str
    text: str
    tokens: int
    logprob: float | None
    finished: bool
    label_logprobs: dict[str, float] | None = Field(
        default=None, description="log P(answer, end token | prompt) in nats of each answer of a closed list.", exclude_if=unset
    )


class CheckpointPolicy(Contract):
    """When a training writes down where it is. `minutes` and `steps`: since the last one, whichever comes first; `keep`: so many."""

    minutes: float = 5.0
    steps: int | None = None
    keep: int = 2


class AnswerScoring(Contract):
    """How answers are scored while training: `function` (`module:name` of the package) makes of `settings` a function of prediction and
    reference."""

    function: str
    settings: dict[str, Any]
    max_new_tokens: int
    higher_is_better: bool


class TrainRequest(Request):
    """Step 6: train `technique` on `train` (JSONL rows of id, prompt, completion), watching the loss on `validation`.

    Broken off, it goes on from its last checkpoint, which lies in `<output>/checkpoints`.
    """

    module = "fine_tune_pipeline.programs.train"
    resumable = True
    parallel = True
    environment = EXACT_HEAP
    model: Read
    train: Read
    validation: Read
    format: PromptFormat
    technique: Technique
    hyperparameters: Hyperparameters
    placement: Placement
    answers: AnswerScoring | None = Field(
        default=None, description="For early stopping on a metric of the task; None: on the validation loss.", exclude_if=unset
    )
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    stall_seconds: float = Field(default=1800.0, description="Without any progress, after which the program says where it stands and ends.")
    tracking: Tracking | None = None

    def identity(self) -> str:
        return identity(self.model_dump(mode="json", exclude={"checkpoints", "stall_seconds"}))


class LayerLoad(Contract):
    """Of one layer of a mixture of experts: the share of the validation rows' visits that each expert gets, before and after training.
    Empty where the architecture does not show them. `still` are experts that should have learned and have not moved."""

    layer: int
    before: tuple[float, ...]
    after: tuple[float, ...]
    still: tuple[int, ...] = ()


class TrainResult(Contract):
    """What was trained. `adapter` is a PEFT folder, or a whole model when the technique is `full`; losses in nats per labelled token."""

    adapter: str
    adapter_sha256: str
    steps: int
    rows: int
    tokens: int = Field(description="Real tokens seen, prompt and completion, over all epochs.")
    labelled_tokens: int
    seconds: float = Field(description="Of the training loop alone.")
    tokens_per_second: float
    first_loss: float | None = Field(description="None when the provider of a hosted model gives no losses.")
    final_loss: float | None
    validation_losses: tuple[tuple[int, float], ...] = Field(description="(step, loss); step 0 is before training.")
    validation_figures: tuple[tuple[int, dict[str, float]], ...] = Field(
        default=(), description="Beside the loss, where answers are compared: reward_accuracy and reward_margin."
    )
    peak_memory_bytes: int
    trainable_parameters: int
    curve: str = Field(
        description="JSONL: step, loss, learning_rate, gradient_norm, tokens_per_second, padding_share, memory_bytes; where answers are "
        "compared also reward_accuracy and reward_margin."
    )
    compiled_layers: int = Field(default=0, description="That went through torch.compile.")
    fixed_memory_bytes: int = Field(default=0, description="Held before the model was loaded; 0 on an accelerator, which counts without.")
    most_tokens: int = Field(default=0, description="In one forward pass.")
    most_labelled: int = Field(default=0, description="Of these, at most, the ones that the loss is computed on.")
    passes: int = Field(default=0, description="Forward passes of the training loop.")
    passes_rows: int = Field(default=0, description="Rows in all of them together.")
    cpu_seconds: float = Field(default=0.0, description="Of all threads in the training loop.")
    padding_share: float = Field(default=0.0, description="Of all places that went through the model.")
    micro_batch: int = Field(default=0, description="At the end: smaller than planned when memory did not suffice.")
    skipped_steps: tuple[tuple[int, str], ...] = Field(default=(), description="Not learned from, and why.")
    remedies: tuple[str, ...] = Field(default=(), description="What was done to go on, in order.")
    continued_from: tuple[int, ...] = Field(default=(), description="Steps at which a try went on where an earlier one had ended.")
    without_comparison: tuple[str, ...] = Field(default=(), description="Ids of training rows that have no second answer to compare.")
    request_sha256: str = Field(default="", description="Of the request's identity.")
    processes: int = Field(default=1, description="That trained together; speeds are of all of them, seconds and memory of the first.")
    mlflow_run_id: str | None = None
    expert_load: tuple[LayerLoad, ...] = Field(default=(), description="Empty for a model without experts.")
    learning_rate: float | None = Field(default=None, description="The highest: as planned, or as a range test has found it.")
    range_test: str | None = Field(default=None, description="Its file, see `programs.range_test.RangeTest`.")
    scores: tuple[tuple[int, float], ...] = Field(default=(), description="(step, metric of the task), if early stopping asks for it.")
    best_step: int | None = Field(default=None, description="Whose weights are kept, if training was to stop early.")
    outcome: str = Field(default="", description="Where it stopped and why, in words; empty without early stopping.")

    @property
    def kept_loss(self) -> float:
        """Validation loss of the weights that are kept."""
        return dict(self.validation_losses)[self.best_step] if self.best_step is not None else self.validation_losses[-1][1]


class PredictJob(Contract):
    """One system on one set of prompts (JSONL rows of id, prompt). `output` becomes JSONL of `Prediction`."""

    name: str
    prompts: Read
    output: Written
    format: PromptFormat
    adapter: Annotated[str | None, Access.READS] = None
    shots: tuple[Shot, ...] = ()
    max_new_tokens: int = 64
    stop: tuple[str, ...] = Field(default=(), description="Strings that end an answer too, once it has begun.", exclude_if=unset)
    decoding: Decoding | None = Field(default=None, description="None: free text, greedily.", exclude_if=unset)
    timed_rows: int = Field(default=0, description="Prompts that are answered once more, one at a time, to time them.", exclude_if=unset)


class PredictRequest(Request):
    """Answers of several systems that share one base model; the likeliest token, or answer, is taken.

    Broken off, it goes on from what lies in `parts`, a folder that outlives it; without one it begins again.
    """

    module = "fine_tune_pipeline.programs.predict"
    resumable = True
    model: Read
    jobs: tuple[PredictJob, ...]
    batch_rows: int = Field(
        default=64, description="At most; fewer where prompts are long. 64 take 0.63 of the time of 16 on two CPU cores."
    )
    batch_tokens: int = Field(default=32768, description="At most in a batch, padding and answers included: it bounds the cache.")
    threads: int | None = None
    dtype: Precision = "float32"
    device: str = "cpu"
    parts: Annotated[str | None, Access.WRITES] = Field(default=None, exclude_if=unset)


class PredictedJob(Contract):
    """What one job cost."""

    name: str
    rows: int
    prompt_tokens: int
    new_tokens: int
    seconds: float
    latencies: tuple[float, ...] = Field(default=(), description="Seconds of single answers.")


class PredictResult(Contract):
    """Costs, job by job; the answers are in the files that the jobs named."""

    jobs: tuple[PredictedJob, ...]
    load_seconds: float
    peak_memory_bytes: int


class EmbedRequest(Request):
    """Sentence embeddings of the `text` of JSONL rows: `<output>/vectors.npy`, float32 [rows, width], unit length, in order."""

    module = "fine_tune_pipeline.programs.embed"
    texts: Read
    threads: int | None = None


class EmbedResult(Contract):
    """Where the vectors lie and which encoder made them."""

    vectors: str
    rows: int
    width: int
    encoder: str
    encoder_sha256: str
    seconds: float = Field(description="Of loading the encoder and embedding all rows.")
    load_seconds: float = Field(default=0.0, description="Of loading the encoder.")


class RegistryAddress(Contract):
    """Where the endpoint asks who is champion, and how often."""

    uri: str
    poll_seconds: float


class ServeRequest(Request):
    """The embedded endpoint of step 8: one base model, versions of one use case by alias."""

    module = "fine_tune_pipeline.programs.serve"
    use_case: str
    model: str
    format: PromptFormat
    max_new_tokens: int
    host: str = "127.0.0.1"
    port: int
    state: str = Field(description="Folder of the server: pid file, version table, traffic log.")
    threads: int | None = None
    dtype: Precision = "float32"
    device: str = "cpu"
    answer_schema: dict[str, Any] | None = Field(
        default=None, description="JSON Schema that a valid answer fits; None if the task has none."
    )
    decoding: Decoding | None = Field(default=None, description="What answers can be, as in the evaluation.", exclude_if=unset)
    answer_labels: tuple[str, ...] = Field(default=(), description="Labels that a valid answer is one of; empty if the task has none.")
    pii: PiiSpec = Field(default=PiiSpec(), description="What the traffic log takes out of texts before it writes them.")
    ner: str | None = Field(default=None, description="Folder of an adapted NER that finds names in them; the packaged one by default.")
    conversations: bool = Field(default=False, description="The model was trained on conversations, so several turns are taken.")
    vllm: VllmUpstream | None = Field(default=None, description="Who computes the answers; None: the endpoint itself.", exclude_if=unset)
    registry: RegistryAddress | None = Field(default=None, description="None: only calls change who answers.", exclude_if=unset)
    traffic: TrafficSpec = TrafficSpec()
    guard: GuardSpec = GuardSpec()
