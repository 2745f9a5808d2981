"""Curvature of PyTorch networks as hessops operators.

`hessian(model, loss, data)` is the Hessian of the loss over a whole data set with respect to the
parameters, as a `hessops.LinearOperator` that every verb of hessops runs on.

Examples
--------
>>> import torch, hessops, hessops_torch
>>> model = torch.nn.Linear(3, 1)
>>> batch = torch.eye(3), torch.zeros(3, 1)
>>> H = hessops_torch.hessian(model, torch.nn.MSELoss(), [batch])
>>> hessops.eigsh(H, 1, rng=0).eigenvalues.shape
(1,)
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hessops_torch needs PyTorch, the extra 'torch': pip install '.[torch]' in a clone, "
        "pip install 'hessops[torch]' elsewhere"
    ) from error

from hessops_torch.convert import convert
from hessops_torch.function_loss import SplitLoss
from hessops_torch.gauss_newton_trace import gauss_newton_diagonal, gauss_newton_trace
from hessops_torch.ggn import GaussNewton, ggn
from hessops_torch.hessian import Hessian, hessian
from hessops_torch.hessian_trace import HessianTraceResult, hessian_trace
from hessops_torch.objective import Objective
from hessops_torch.parameters import ParameterSpace
from hessops_torch.probes import fill_probes

__all__ = [
    "GaussNewton",
    "Hessian",
    "HessianTraceResult",
    "Objective",
    "ParameterSpace",
    "SplitLoss",
    "convert",
    "fill_probes",
    "gauss_newton_diagonal",
    "gauss_newton_trace",
    "ggn",
    "hessian",
    "hessian_trace",
]
