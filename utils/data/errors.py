"""What is wrong with data, as errors of one line."""

from utils.cli import UserError


class DataError(UserError, ValueError):
    """Data that cannot be used as it is, or an argument that says how; the message is one line with a remedy."""

    def __str__(self) -> str:
        # A DataLoader worker hands the error on with its whole traceback as the message: the last line is ours.
        return super().__str__().rpartition("DataError: ")[2].strip()


class MissingData(UserError, FileNotFoundError):
    """A data folder that is not there or holds no videos."""


class CaptionError(DataError):
    """A caption file that is no text in the given encoding; the message is one line with file, byte and remedy."""
