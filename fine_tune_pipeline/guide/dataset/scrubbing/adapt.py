"""The packaged NER trained further for a use case: which texts people reviewed, what came of it, and which NER is used then."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fine_tune_pipeline.artifacts.examples import write_rows
from fine_tune_pipeline.artifacts.manifest import Built, Check
from fine_tune_pipeline.artifacts.store import Artifact, Store
from fine_tune_pipeline.guide.dataset.scrubbing.reviewed_texts import NER_ENTITIES, ReviewedText, read_reviewed, read_scrubbed
from fine_tune_pipeline.programs.pii.ner_requests import AdaptNerRequest, AdaptNerResult, NerScore
from fine_tune_pipeline.spec.pii_adapt import AdaptSpec
from fine_tune_pipeline.spec.use_case import UseCaseSpec

ASSET = "pii_ner_adapt"
CHECK = "not_worse"
NER = "ner"

Run = Callable[[AdaptNerRequest], AdaptNerResult]


def reviewed_texts(spec: UseCaseSpec) -> list[ReviewedText]:
    """All that the use case's people reviewed.

    Raises:
        BadReview: names file, row and field of the first mistake.
    """
    pii = spec.dataset.pii
    entities = {*NER_ENTITIES, *pii.entities, *pii.deny}
    texts = []
    for one in _adapt(spec).reviewed:
        path = spec.file(one.path)
        if one.findings is None:
            texts += read_reviewed(path, entities=entities, looked_for=one.entities)
        else:
            texts += read_scrubbed(path, spec.file(one.findings), entities=entities, looked_for=one.entities)
    return texts


def what(spec: UseCaseSpec, texts: Sequence[ReviewedText]) -> dict[str, Any]:
    """What decides the weights: the numbers of the section, and the content of the reviewed texts."""
    content = json.dumps([text.row() for text in texts], ensure_ascii=False, sort_keys=True)
    return {
        "dataset.pii.adapt": _adapt(spec).model_dump(mode="json", exclude={"reviewed"}),
        "reviewed": hashlib.sha256(content.encode("utf-8")).hexdigest(),
    }


def adapted(adapt: AdaptSpec, texts: Sequence[ReviewedText], folder: Path, *, run: Run) -> Built:
    """Have the program train, keep the weights in `folder`, and say how they compare with the packaged ones.

    Args:
        run: runs the program.
    """
    work = folder / "program"
    work.mkdir()
    reviewed = work / "reviewed.jsonl"
    write_rows(reviewed, [text.row() for text in texts])
    numbers = adapt.model_dump(exclude={"reviewed"})
    result = run(AdaptNerRequest(output=str(work), reviewed=str(reviewed) if texts else None, **numbers))
    shutil.move(result.ner, folder / NER)
    # The texts hold personal data: they stay where the user keeps them.
    shutil.rmtree(work)
    check = not_worse(result.scores)
    f2 = {f"{score.kind}_f2_{score.ner}": score.f2 for score in result.scores}
    return Built(
        metadata={
            "used": "adapted" if check.passed else "packaged", "weights_sha256": result.ner_sha256, **f2,
            "scores": [score.model_dump() for score in result.scores], "loss": [one.model_dump() for one in result.curve],
            "first_loss": result.curve[0].loss, "final_loss": result.curve[-1].loss, "learnt_from": result.learnt_from,
            "program_seconds": result.seconds, "cpu_seconds": result.cpu_seconds,
        },
        checks=[check],
    )  # fmt: skip


def not_worse(scores: Sequence[NerScore]) -> Check:
    """Whether the adapted NER finds at least as much as the packaged one in each kind of held-back text.

    It does not block: without it everything is scrubbed as well as without this option.
    """
    f2: dict[str, dict[str, float]] = {}
    for score in scores:
        f2.setdefault(score.kind, {})[score.ner] = score.f2
    worse = {kind: both for kind, both in f2.items() if both["adapted"] < both["packaged"]}
    said = "; ".join(f"{kind}: F2 {both['packaged']:.3f} packaged, {both['adapted']:.3f} adapted" for kind, both in f2.items())
    todo = f" Worse on {', '.join(worse)}, so the packaged NER is used. Review more texts, or leave dataset.pii.adapt away."
    return Check(
        name=CHECK,
        passed=not worse,
        blocking=False,
        description=f"Characters of names in held-back texts: {said}." + (todo if worse else ""),
    )


def used_ner(artifact: Artifact | None) -> Path | None:
    """The folder of the NER that an artifact of `pii_ner_adapt` says is better; None for the packaged one."""
    if artifact is None or not all(check.passed for check in artifact.manifest.built.checks):
        return None
    return artifact.file(NER)


def upstream_ner(spec: UseCaseSpec, store: Store) -> dict[str, Artifact]:
    """The artifact of the adapted NER, if the use case asks for one, as an upstream of what scrubs.

    Raises:
        MissingArtifact: it was not made yet.
    """
    return {} if spec.dataset.pii.adapt is None else {ASSET: store.current(spec.name, ASSET)}


def ner_of(upstream: Mapping[str, Artifact]) -> Path | None:
    """The folder that `detector` is given, of what `upstream_ner` gave."""
    return used_ner(upstream.get(ASSET))


def _adapt(spec: UseCaseSpec) -> AdaptSpec:
    assert spec.dataset.pii.adapt is not None
    return spec.dataset.pii.adapt
