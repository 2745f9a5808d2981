"""When, how long, with which versions and on which machine a report was made."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from importlib.metadata import version

__all__ = ["provenance", "provenance_text"]

_PACKAGES = ("numpy", "scipy", "torch")


def provenance(seconds: float) -> dict[str, str | float]:
    """Return what to know of a run that is to be repeated.

    Parameters
    ----------
    seconds : float
        How long the analysis took.

    Returns
    -------
    dict
        Date, seconds, machine, and versions of Python and of those libraries that are in use.
    """
    used = {name: version(name) for name in _PACKAGES if name in sys.modules}
    return {
        "date": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": seconds,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **used,
    }


def provenance_text(known: dict[str, str | float]) -> str:
    """Return what `provenance` returned as a sentence for the page.

    Parameters
    ----------
    known : dict
        From there.

    Returns
    -------
    str
        One line.
    """
    versions = [f"{name} {known[name]}" for name in ("python", *_PACKAGES) if name in known]
    return (
        f"{known['date']}, analysed in {known['seconds']:.3g} s on {known['machine']}; "
        f"{', '.join(versions)}"
    )
