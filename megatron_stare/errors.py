"""The one exception a user can fix: the command line prints it without a traceback and exits 2."""


class UserError(Exception):
    """Bad input. The message names the key or file, the value found, and what was expected."""


class ReportedUserError(UserError):
    """A `UserError` that another rank prints."""
