"""Step 6 of the hosted use case as a run of its own, so that a test can kill it: folder, URL of the provider, MLflow's file."""

import sys
from pathlib import Path

from fine_tune_pipeline.guide.training.assets import adapter
from fine_tune_pipeline.resources.compute.local import Local
from fine_tune_pipeline.resources.compute.placed import PlacedCompute
from fine_tune_pipeline_tests.hosted.stand_in import Provider
from fine_tune_pipeline_tests.hosted.world import hosted_use_case, materialize

if __name__ == "__main__":
    folder, url, runs = sys.argv[1:]
    spec = hosted_use_case(Path(folder), Provider(url=url))
    result = materialize(Path(folder), spec, runs=Path(runs), only=(adapter,), compute=PlacedCompute(place=Local(grace_seconds=20)))
    sys.exit(0 if result.success else 1)
