"""What a guard against the champion says where that gave no answers."""

from collections.abc import Sequence
from dataclasses import replace

from fine_tune_pipeline.guide.evaluation.retraining.champion import Champion
from fine_tune_pipeline.guide.evaluation.verdicts import Verdict
from fine_tune_pipeline.guide.objective.criteria import criterion_text
from fine_tune_pipeline.spec.objective import CHAMPION, ObjectiveSpec


def without_champion(found: Sequence[Verdict], objective: ObjectiveSpec, champion: Champion | None) -> list[Verdict]:
    """The verdicts, where those that ask not to be worse than the champion say why it gave no answers.

    Before the first version answers nobody can be worse than it; one that answers and could not be asked leaves the question open.
    """
    asked = {criterion_text(one) for one in (*objective.success, *objective.guards) if one.versus == CHAMPION}
    if champion is None:
        why = "no other version answers yet, so there is none to be worse than"
        return [replace(one, verdict="met", reason=why) if one.criterion in asked else one for one in found]
    if champion.left_out:
        why = f"{champion.name} answers now and was not asked: {champion.left_out}"
        return [replace(one, reason=why) if one.criterion in asked else one for one in found]
    return list(found)
