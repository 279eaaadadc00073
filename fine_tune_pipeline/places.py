"""Where the pipeline keeps things, as the environment says; the code location and the command line ask here."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """Folders, and a URL where one is allowed."""

    home: Path
    store: str
    reviews: Path
    serving: Path
    mlflow: str
    mlflow_artifacts: str
    downloads: Path


USE_CASES_VARIABLE = "FINE_TUNE_PIPELINE_USE_CASES"
"""More use cases: YAML files, or folders of them, separated as in PATH."""


SERVING_URL_VARIABLE = "FINE_TUNE_PIPELINE_SERVING_URL"
"""Where endpoints answer that are attended in containers of their own; {name} in it is the use case with hyphens."""


def own_use_cases() -> list[Path]:
    """Files and folders of use cases that lie outside the package."""
    return [Path(name) for name in os.environ.get(USE_CASES_VARIABLE, "").split(os.pathsep) if name]


def places() -> Places:
    """Everything below FINE_TUNE_PIPELINE_HOME, unless a variable of its own says otherwise."""
    home = Path(os.environ.get("FINE_TUNE_PIPELINE_HOME", ".fine_tune_pipeline")).absolute()
    return Places(
        home=home,
        store=os.environ.get("FINE_TUNE_PIPELINE_STORE", str(home / "store")),
        reviews=home / "reviews",
        serving=home / "serving",
        mlflow=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db"),
        mlflow_artifacts=str(home / "mlflow-artifacts"),
        downloads=home / "downloads",
    )
