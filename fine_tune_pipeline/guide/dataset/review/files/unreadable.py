"""The error that all formats of a hand-in share."""


class UnreadableHandIn(Exception):
    """A file that people handed in cannot be read at all; says what it is and how to save it."""
