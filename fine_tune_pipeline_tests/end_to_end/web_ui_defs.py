"""What the web UI of the browser tests loads: an asset whose events the tests report."""

import dagster as dg


@dg.asset(key=["triage", "adapter"])
def adapter() -> None:
    """Never materialized here."""


defs = dg.Definitions(assets=[adapter])
