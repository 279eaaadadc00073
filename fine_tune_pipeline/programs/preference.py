"""How compared answers are learned from, as the programs are asked. Nothing here imports torch."""

from typing import Literal

from fine_tune_pipeline.programs.contracts import Contract


class Preference(Contract):
    """Learning from compared answers. `beta`: how strongly the model is held to the reference; of orpo, the weight of the comparison.
    `undesirable_weight`: of kto, a row that is not wanted counts so much."""

    type: Literal["dpo", "orpo", "kto"]
    beta: float = 0.1
    undesirable_weight: float = 1.0

    def __str__(self) -> str:
        weight = f", undesirable weight {self.undesirable_weight:.3g}" if self.type == "kto" else ""
        return f"{self.type}, beta {self.beta:g}{weight}"

    @property
    def answers(self) -> int:
        """Of a row, that go through the model together."""
        return 1 if self.type == "kto" else 2
