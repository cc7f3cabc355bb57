"""Runs a module as `python -m` would, with an API key that shows in no process list and no log.

    python -P with_api_key.py VARIABLE MODULE ARGUMENTS...

Runs in the environments of servers and router: imports nothing of this package.
"""

import logging
import os
import runpy
import sys


def _keep_out_of_logs(secret: str) -> None:
    """Servers log all of their arguments when they start."""
    make = logging.getLogRecordFactory()

    def make_without(*args, **kwargs):
        record = make(*args, **kwargs)
        try:
            message = record.getMessage()
        except Exception:  # Arguments that do not fit their message are the logger's to report.
            return record
        if secret in message:
            record.msg, record.args = message.replace(secret, "***"), ()
        return record

    logging.setLogRecordFactory(make_without)


if __name__ == "__main__":
    variable, module, *arguments = sys.argv[1:]
    key = os.environ[variable]
    _keep_out_of_logs(key)
    sys.argv = [module, *arguments, f"--api-key={key}"]  # A key may begin with a dash.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
