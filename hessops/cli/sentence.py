"""An error as one line."""

from __future__ import annotations

from hessops.errors import NotSelfAdjointError

__all__ = ["sentence_of"]

_WITH_A_SENTENCE = (ValueError, TypeError, OSError, ImportError, RuntimeError, ArithmeticError)


def sentence_of(error: Exception) -> str:
    """Return what an error says, in one line, with its name where it has no sentence."""
    text = " ".join("; ".join([str(error), *getattr(error, "__notes__", [])]).split())
    if isinstance(error, NotSelfAdjointError):
        text += "; --compute trace works without"
    # These come with a sentence; what else there is needs its name.
    if not text or not isinstance(error, _WITH_A_SENTENCE):
        text = f"{type(error).__name__}: {text} (--traceback shows where)"
    return text
