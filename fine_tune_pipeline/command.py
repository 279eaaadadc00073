"""What all commands have in common: exit codes, and how a result is said."""

import argparse
import json
from collections.abc import Callable, Mapping

DATA_SAYS_NO = 1
WRONG_USE = 2
ENVIRONMENT = 3
WAITING = 4

Add = Callable[[Callable[[argparse.Namespace], int]], argparse.ArgumentParser]
"""Adds a command, named and described as its function."""


def say(parsed: argparse.Namespace, facts: Mapping[str, object], text: str) -> None:
    """The result on stdout: for machines after --json, else for people."""
    print(json.dumps(facts, ensure_ascii=False) if parsed.json else text)
