"""The command that is the container of an endpoint."""

import argparse
import sys

from fine_tune_pipeline.command import WRONG_USE, Add
from fine_tune_pipeline.places import places


def attend(parsed: argparse.Namespace) -> int:
    """Run the endpoint of a use case in this container, as whoever deploys it wishes, until this is ended."""
    from fine_tune_pipeline.attendant import Attendant, AttendedAlready, alone
    from fine_tune_pipeline.resources.endpoint import Endpoint

    endpoint = Endpoint(use_case=parsed.use_case, folder=places().serving / parsed.use_case)
    try:
        with alone(endpoint.folder):
            return Attendant(endpoint).run()
    except AttendedAlready as error:
        print(error, file=sys.stderr)
        return WRONG_USE


def add(command: Add) -> None:
    """The command."""
    added = command(attend)
    added.add_argument("use_case", metavar="USE_CASE")
