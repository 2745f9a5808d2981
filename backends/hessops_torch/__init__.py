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
from hessops_torch.landscapes.landscape import Landscape, landscape
from hessops_torch.layers.layer_curvature import layer_curvature
from hessops_torch.layers.result import LayerCurvature
from hessops_torch.losses.function import SplitLoss
from hessops_torch.model.parameters import ParameterSpace
from hessops_torch.objective.objective import Objective
from hessops_torch.operators.activation_hessian import activation_hessian, input_hessian
from hessops_torch.operators.diagonal_blocks import DiagonalBlocks, block_diagonal
from hessops_torch.operators.empirical_fisher import EmpiricalFisher, empirical_fisher
from hessops_torch.operators.fisher import Fisher, fisher
from hessops_torch.operators.ggn import GaussNewton, ggn
from hessops_torch.operators.gradient_covariance import GradientCovariance, gradient_covariance
from hessops_torch.operators.hessian import Hessian, hessian
from hessops_torch.operators.jacobian import Jacobian, jacobian, ntk
from hessops_torch.operators.optimizer_metric import optimizer_metric
from hessops_torch.operators.preconditioned import Preconditioned, preconditioned
from hessops_torch.operators.residual_curvature import ResidualCurvature, residual_curvature
from hessops_torch.operators.shift_hessian import ShiftHessian
from hessops_torch.planning.plan import plan
from hessops_torch.planning.result import Plan
from hessops_torch.planning.work import Work
from hessops_torch.probes import fill_probes
from hessops_torch.ranks.distributed import TorchComm, distributed_comm, rank_device
from hessops_torch.ranks.sharding import shard
from hessops_torch.sampling.density import DensitySamplingError, density_sampling_error
from hessops_torch.sampling.eigenvalues import eigenvalue_sampling_error
from hessops_torch.sampling.error import SamplesNeeded, SamplingError
from hessops_torch.sampling.trace import trace_sampling_error
from hessops_torch.traces.gauss_newton_trace import gauss_newton_diagonal, gauss_newton_trace
from hessops_torch.traces.hessian_trace import HessianTraceResult, hessian_trace
from hessops_torch.training.record import CurvatureRecord
from hessops_torch.training.tracker import CurvatureTracker

__all__ = [
    "CurvatureRecord",
    "CurvatureTracker",
    "DensitySamplingError",
    "DiagonalBlocks",
    "EmpiricalFisher",
    "Fisher",
    "GaussNewton",
    "GradientCovariance",
    "Hessian",
    "HessianTraceResult",
    "Jacobian",
    "Landscape",
    "LayerCurvature",
    "Objective",
    "ParameterSpace",
    "Plan",
    "Preconditioned",
    "ResidualCurvature",
    "SamplesNeeded",
    "SamplingError",
    "ShiftHessian",
    "SplitLoss",
    "TorchComm",
    "Work",
    "activation_hessian",
    "block_diagonal",
    "convert",
    "density_sampling_error",
    "distributed_comm",
    "eigenvalue_sampling_error",
    "empirical_fisher",
    "fill_probes",
    "fisher",
    "gauss_newton_diagonal",
    "gauss_newton_trace",
    "ggn",
    "gradient_covariance",
    "hessian",
    "hessian_trace",
    "input_hessian",
    "jacobian",
    "landscape",
    "layer_curvature",
    "ntk",
    "optimizer_metric",
    "plan",
    "preconditioned",
    "rank_device",
    "residual_curvature",
    "shard",
    "trace_sampling_error",
]
