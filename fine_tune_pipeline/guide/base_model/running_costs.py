"""What a candidate costs before any data has been seen: minutes and money of a training run, and of a thousand answers.

Candidates are compared on a nominal run, since step 2 knows no rows yet; the training plan (step 4) counts the real ones.
"""

from dataclasses import dataclass

from fine_tune_pipeline.guide.base_model.catalogue import Architecture, Price
from fine_tune_pipeline.guide.base_model.duration import Tokens, training_seconds
from fine_tune_pipeline.guide.base_model.hardware import Speed, gpu_of, speed
from fine_tune_pipeline.guide.base_model.price import Cost, cost, price_of
from fine_tune_pipeline.programs.requests import Technique
from fine_tune_pipeline.resources.compute.inventory import Inventory
from fine_tune_pipeline.spec.environment import DevicePrice
from fine_tune_pipeline.spec.hosted import Prices
from fine_tune_pipeline.spec.use_case import UseCaseSpec

ROWS = 1000
ROW_TOKENS = 256
ANSWER_TOKENS = 64
"""Of the row's tokens: a message of about two hundred words less its answer, as in support, extraction and classification."""

EPOCHS = 3.0
"""Where the use case leaves them to the plan."""

ANSWERS = 1000

CPU_CORE_BANDWIDTH = 5e9
"""Bytes per second and core that a product of a matrix and a vector reads: measured on two AVX2 cores."""

UNKNOWN_BANDWIDTH = 0.3e12
"""Of an accelerator that is not in the table: on the slow side of what is in use."""


@dataclass(frozen=True)
class Place:
    """Where a candidate would be trained and asked: how fast it is, how fast it reads its memory, what its hours cost."""

    at: Speed
    bandwidth: float
    number_bytes: int
    price: DevicePrice | None


@dataclass(frozen=True)
class NominalRun:
    """The training run on which candidates are compared."""

    tokens: Tokens
    epochs: float

    @property
    def answer_tokens(self) -> float:
        return self.tokens.labelled / ROWS

    def __str__(self) -> str:
        return f"{ROWS:,} rows of {self.tokens.per_row:g} tokens, {self.answer_tokens:g} of them the answer, {self.epochs:g} epochs"


def running_place(inventory: Inventory, spec: UseCaseSpec) -> Place:
    """The first device of the place, as steps 4 and 5 take it."""
    device = inventory.devices[0]
    gpu = gpu_of(device.name)
    on_cpu = CPU_CORE_BANDWIDTH * inventory.cpu_cores
    bandwidth = on_cpu if device.kind == "cpu" else UNKNOWN_BANDWIDTH if gpu is None else gpu.bandwidth
    return Place(speed(inventory), bandwidth, 4 if device.kind == "cpu" else 2, price_of(device, spec.environment.prices))


def nominal_run(spec: UseCaseSpec, *, longest_tokens: int) -> NominalRun:
    """A thousand rows of usual length, or of the longest that the use case allows if that is shorter."""
    row = min(ROW_TOKENS, longest_tokens)
    labelled = min(ANSWER_TOKENS, row)
    epochs = EPOCHS if spec.training.epochs == "auto" else float(spec.training.epochs)
    return NominalRun(Tokens(all=ROWS * row, labelled=ROWS * labelled, per_row=row), epochs)


def run_seconds(model: Architecture, technique: Technique, run: NominalRun, place: Place) -> float:
    """Of the training loop of the nominal run."""
    return training_seconds(model, technique, run.tokens, epochs=run.epochs, at=place.at)


def run_cost(seconds: float, place: Place) -> Cost | None:
    """Of the nominal run on the place's own hardware; None without a price of its hours."""
    return cost(seconds, place.price)


def tuning_cost(price: Price | Prices | None, run: NominalRun) -> Cost | None:
    """Of the nominal run at a provider, which counts every epoch; None without a price."""
    if price is None or price.train is None:
        return None
    return Cost(run.tokens.all * run.epochs / 1e6 * price.train, price.currency)


def answers_seconds(model: Architecture, run: NominalRun, place: Place) -> float:
    """Of a thousand answers, one after the other.

    A prompt is read at the speed of the products. Each token that is written reads every weight on its way once, so the memory's bandwidth
    bounds it; answering many at a time is faster.
    """
    written = run.answer_tokens
    body, head = model.active_body_parameters, model.vocabulary * model.hidden
    prompt = 2 * body * (run.tokens.per_row - written) / place.at.rate
    word = max(2 * (body + head) / place.at.rate, (body + head) * place.number_bytes / place.bandwidth)
    return ANSWERS * (prompt + written * word)


def answers_cost(model: Architecture | None, price: Price | Prices | None, run: NominalRun, place: Place) -> Cost | None:
    """Of a thousand answers: what a provider asks, if the model has such a price, else the hours of the place's own hardware."""
    if price is not None and price.input is not None and price.output is not None:
        read = run.tokens.per_row - run.answer_tokens
        asked = (read * price.input + run.answer_tokens * price.output) / 1e6
        return Cost(ANSWERS * asked, price.currency)
    return None if model is None else cost(answers_seconds(model, run, place), place.price)


def money(cost: Cost | None) -> str | None:
    """As a table shows it: three digits that count, since a thousand answers of a small model cost cents."""
    return None if cost is None else f"{cost.amount:.3g} {cost.currency}"
