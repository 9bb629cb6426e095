"""The base of the errors that a person can act on: the command line prints them in one line, without a traceback."""


class VlcapError(Exception):
    """What is wrong, where, and what to do about it, in one sentence."""
