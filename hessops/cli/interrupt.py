"""What Ctrl-C leaves behind."""

import sys
from typing import NoReturn

__all__ = ["end_interrupted"]


def end_interrupted() -> NoReturn:
    """End with one line and the exit code of a program stopped by SIGINT.

    Raises
    ------
    SystemExit
        With code 130, always.
    """
    sys.stderr.write("hessops: interrupted, the report is not written\n")
    raise SystemExit(130)
