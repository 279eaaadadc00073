"""One use case for all tests of this folder, since the eight steps take a minute."""

from collections.abc import Iterator

import pytest

from fine_tune_pipeline_tests.end_to_end.guide_run import NAME, GuideRun, cpu_seconds, what_failed


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuideRun]:
    made = GuideRun.at(tmp_path_factory.mktemp("guide"))
    yield made
    made.command("stop", NAME)


@pytest.fixture(scope="package")
def first_seconds(run: GuideRun) -> float:
    """The whole guide; how many CPU seconds it took."""
    before = cpu_seconds()
    done = run.materialize()
    assert done.returncode == 0, what_failed(done)
    return cpu_seconds() - before
