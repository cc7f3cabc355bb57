"""The one exception a user can fix: the command line prints it without a traceback and exits 2."""


class UserError(Exception):
    """Bad input. The message names the key or file, the value found, and what was expected."""


class Stopped(Exception):
    """A run was asked to stop, and everything it needs to go on is saved."""


class ReportedUserError(UserError):
    """A `UserError` that another rank prints."""
