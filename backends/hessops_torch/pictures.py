"""Where matplotlib is met, and only when something is drawn."""

from __future__ import annotations

from typing import Any

__all__ = ["new_figure"]


def new_figure(rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Return a new figure and its axes, as `matplotlib.pyplot.subplots` does.

    Parameters
    ----------
    rows, columns : int
        Axes below and beside each other.
    **options : object
        For `matplotlib.pyplot.subplots`.

    Returns
    -------
    (matplotlib.figure.Figure, matplotlib.axes.Axes or numpy.ndarray)
        The figure and its axes.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib, the extra 'plot': pip install '.[plot]' in a clone, "
            "pip install 'hessops[plot]' elsewhere"
        ) from error
    return plt.subplots(rows, columns, layout="constrained", **options)
