"""`make dev`: MLflow in the background, Dagster's web UI and daemon in front; both end together."""

import sys
from pathlib import Path

from fine_tune_pipeline.foreground import running, signals_interrupt


def run_dev(*, home: Path, port: int, mlflow_port: int) -> int:
    """Serve until Ctrl-C. Training runs log to the MLflow server that is started here."""
    home.mkdir(parents=True, exist_ok=True)
    uri = f"http://127.0.0.1:{mlflow_port}"
    command = [sys.executable, "-m", "dagster", "dev", "-m", "fine_tune_pipeline.definitions", "-p", str(port)]
    print(f"web UI  http://127.0.0.1:{port}\nMLflow  {uri}", file=sys.stderr)
    try:
        with signals_interrupt(), running(mlflow_command(home, mlflow_port)), running(command, env={"MLFLOW_TRACKING_URI": uri}) as web:
            return web.wait()
    except KeyboardInterrupt:
        return 0


def mlflow_command(home: Path, port: int) -> list[str]:
    """An MLflow server on the same database that command-line runs use."""
    options = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "mlflow-artifacts")]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *options]
