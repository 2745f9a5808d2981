"""One thread at a time changes a model, the choice of kernels or the random state, and puts them back.

One lock for all models, not one for each: kernels and random state belong to the process.
"""

import threading

__all__ = ["exclusive"]

exclusive = threading.RLock()
