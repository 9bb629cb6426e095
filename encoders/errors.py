"""The error that encoders raise on purpose."""


class EncoderError(ValueError):
    """An encoder cannot be made or used as asked: an unknown name, sizes or a budget that do not fit."""
