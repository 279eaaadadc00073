"""What a search has shown, for people: a table, parallel coordinates, and how much each parameter matters."""

from fine_tune_pipeline.guide.technique.search.space import Space
from fine_tune_pipeline.guide.technique.search.winner import Winner
from fine_tune_pipeline.pages.coordinates import Axis, Line, importance_bars, markdown_image, parallel_coordinates
from fine_tune_pipeline.pages.document import Page, Section, table
from fine_tune_pipeline.programs.search_requests import SearchResult, TrialRecord

COORDINATES = "trials: every line is one; the last axis has its score at the last rung that it came to"
MATTERS = "share of each parameter in the spread of the scores"


def page_of(result: SearchResult, space: Space, winner: Winner, *, name: str) -> Page:
    """The page of a search."""
    choice, rows = result.choice, result.answered
    bound = "no bound, since there is no spread" if choice.gain_bound is None else f"lower bound {choice.gain_bound:+.4f}"
    gain = f"Over the plan (trial 0): {choice.gain:+.4f} {result.metric} on {rows} validation rows ({bound})."
    chosen = "The rows have chosen the trial, so its score here is rather too high; step 7 judges it on rows that nobody has looked at."
    coordinates, bars = _pictures(result, space)
    return Page(
        title=f"Search of {name}",
        advice=f"{winner.source}: {choice.why}.",
        about=f"{gain} {chosen} {result.said.partition(': ')[0]}.",
        sections=[
            table("Trials", [result.row(trial) for trial in result.trials], charts=(coordinates,) if coordinates else ()),
            Section("What matters", _matters(result), charts=(bars,) if bars else ()),
            Section("Left out of the space", "" if space.notes else "Nothing.", items=space.notes),
        ],
    )


def pictures(result: SearchResult, space: Space) -> dict[str, str]:
    """The same pictures for the metadata of the asset."""
    coordinates, bars = _pictures(result, space)
    found = {"parallel_coordinates": markdown_image(coordinates, title=COORDINATES), "importance": markdown_image(bars, title=MATTERS)}
    return {name: picture for name, picture in found.items() if picture}


def _matters(result: SearchResult) -> str:
    first = result.trials[0].rungs[0].share
    judged = sum(trial.rungs[0].score is not None for trial in result.trials if trial.rungs)
    if not result.importance:
        return "The scores of the first rung do not differ, so nothing is to be told."
    return f"fANOVA on {judged} scores after {first:.0%} of the steps: with so few, the order says something, and the figures little."


def _pictures(result: SearchResult, space: Space) -> tuple[str, str]:
    axes = [Axis(one.name, one.values, log=one.log and one.low is not None) for one in space.dimensions]
    lines = [_line(trial, result, space) for trial in result.trials]
    coordinates = parallel_coordinates([*axes, Axis(result.metric)], lines, title=COORDINATES)
    return coordinates, importance_bars(result.importance, title=MATTERS)


def _line(trial: TrialRecord, result: SearchResult, space: Space) -> Line:
    score = next((rung.score for rung in reversed(trial.rungs) if rung.score is not None), None)
    kind = "chosen" if trial.number == result.choice.number else "first" if trial.number == 0 else "other"
    said = "no score" if score is None else f"{result.metric} {score:.4f} after {trial.rungs[-1].share:.0%} of the steps"
    return Line(f"trial {trial.number}: {said}", (*(trial.parameters[one.name] for one in space.dimensions), score), kind)
