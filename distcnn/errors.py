"""The errors a user can mend: shown as one screen without a traceback."""


class UserError(Exception):
    """A mistake or a circumstance that the user can mend; the message names the remedy.

    Attributes:
        exit_code: what the process ends with when nobody handles the error.
    """

    exit_code = 1


class UsageError(UserError):
    """What was typed (a config, an override, a path) is wrong; nothing has been started."""

    exit_code = 2
