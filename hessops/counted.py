"""Numbers of things, in words."""

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, which has an s unless there is one of it.

    Parameters
    ----------
    number : int
        How many.
    noun : str
        Of what, for one.
    plural : str
        For several, where it takes more than an s.

    Returns
    -------
    str
        Such as ``3 products``.

    Examples
    --------
    >>> from hessops.counted import counted
    >>> counted(1, "product"), counted(3, "product"), counted(2, "matrix", "matrices")
    ('1 product', '3 products', '2 matrices')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
