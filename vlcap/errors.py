"""The errors that a person can act on. The command line prints them in one line, without a traceback."""

import sys


class VlcapError(Exception):
    """The base of those errors. Its message is one sentence: what is wrong, where, and what to do about it."""


class CaptionerError(VlcapError, ValueError):
    """A captioner cannot be loaded, or cannot do what it was asked for."""


def reason(error: BaseException, most: int = 300) -> str:
    """What another library's error says, on one line of so many letters; the error's type if it says nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]


def is_expected(error: BaseException) -> bool:
    """Whether a person can act on an error: it comes from this project or from the system. Any other is a bug."""
    encoders = sys.modules.get("encoders.errors")  # who raised one of its errors has imported it; it brings torch along
    return isinstance(error, VlcapError | OSError) or (
        encoders is not None and isinstance(error, encoders.EncoderError)
    )
