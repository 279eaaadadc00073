"""What a search has spent, and what one more training would take, by the ones that were measured."""

from collections.abc import Collection, Mapping, Sequence
from statistics import median

from fine_tune_pipeline.programs.search_requests import Parameters, RungRecord, SearchRequest, TrialRecord
from fine_tune_pipeline.programs.searching.space import defaults, epochs, rows_file


class Spending:
    """Seconds of a search.

    Args:
        rows: of each file of training rows.
        running: numbers of the trials that are being trained for their next rung; what they will take counts as spent.
    """

    def __init__(
        self, request: SearchRequest, trials: Sequence[TrialRecord], *, rows: Mapping[str, int], running: Collection[int] = ()
    ) -> None:
        self._request = request
        self._rows = rows
        self._measured = [(trial, rung) for trial in trials for rung in trial.rungs]
        self.seconds = sum(rung.seconds for _, rung in self._measured)
        under_way = (trials[number] for number in running)
        self._under_way = sum(self.estimate(trial.parameters, request.rungs[len(trial.rungs)]) for trial in under_way)

    def estimate(self, parameters: Parameters, share: float) -> float:
        """Seconds of training a point for a share of its steps, and of answering."""
        well = [(trial, rung) for trial, rung in self._measured if not rung.failed]
        if not well:
            return self._request.predicted_seconds * share
        answering = median(rung.answering_seconds for _, rung in well)
        return answering + self._seen(parameters, share) * median(self._row_seconds(trial, rung) for trial, rung in well)

    def fits(self, trial: TrialRecord, rung: int) -> bool:
        """Whether there is room for it; before the first rung also for one trial more that then goes on to the last."""
        budget = self._request.budget
        if budget is None:
            return True
        shares = self._request.rungs
        needed = self.estimate(trial.parameters, shares[rung])
        if rung == 0 and len(shares) > 1:
            needed += sum(self.estimate(defaults(self._request.space), share) for share in shares[1:])
        return self.seconds + self._under_way + needed <= budget.seconds

    def _row_seconds(self, trial: TrialRecord, rung: RungRecord) -> float:
        return (rung.seconds - rung.answering_seconds) / self._seen(trial.parameters, rung.share)

    def _seen(self, parameters: Parameters, share: float) -> float:
        return self._rows[rows_file(self._request, parameters)] * epochs(self._request, parameters) * share
