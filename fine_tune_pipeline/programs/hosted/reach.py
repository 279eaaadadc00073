"""Step 2 of a hosted model: does the provider answer, take the key, and know the model?"""

from fine_tune_pipeline.programs.hosted.provider import ProviderError, connect, told
from fine_tune_pipeline.programs.hosted.requests import HostedModel, ReachRequest, ReachResult
from fine_tune_pipeline.programs.reporting import Reporter, finish, parse, session


def reach(hosted: HostedModel) -> ReachResult:
    """Look the model up in the provider's list; what stops us is told, not raised."""
    try:
        with connect(hosted) as client, told(hosted, "listing models"):
            found = next((model for model in client.models.list() if model.id == hosted.model), None)
    except ProviderError as error:
        return ReachResult(problem=f"{type(error).__name__}: {error}")
    if found is None:
        return ReachResult(
            problem=f"{hosted.base_url} does not list the model {hosted.model}: it is misspelt, withdrawn, or not open to this account"
        )
    return ReachResult(listed=True, shutdown_date=found.shutdown_date)


def run(request: ReachRequest, reporter: Reporter) -> ReachResult:
    """The program's work."""
    found = reach(request.hosted)
    reporter.log(found.problem or f"{request.hosted.base_url} lists {request.hosted.model}")
    return found


def main() -> None:
    """The command line."""
    request = parse(ReachRequest)
    with session() as reporter:
        finish(request, run(request, reporter))


if __name__ == "__main__":
    main()
