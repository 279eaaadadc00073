"""The secret behind hashes and pseudonyms: read from the environment when it is needed, never part of a configuration that is shown."""

import dagster as dg
from pydantic import Field

from fine_tune_pipeline.programs.pii.stand_ins import KEY_VARIABLE


class PersonalDataKey(dg.ConfigurableResource):
    """Whoever has the key can tell which stand-in belongs to which value; whoever loses it gets other stand-ins."""

    variable: str = Field(default=KEY_VARIABLE, description="Name of the environment variable that holds the key.")
