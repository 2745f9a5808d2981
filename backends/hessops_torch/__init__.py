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

from hessops_torch.operators.activation_hessian import activation_hessian, input_hessian
from hessops_torch.convert import convert
from hessops_torch.curvature_record import CurvatureRecord
from hessops_torch.curvature_tracker import CurvatureTracker
from hessops_torch.diagonal_blocks import DiagonalBlocks, block_diagonal
from hessops_torch.distributed import TorchComm, distributed_comm, rank_device
from hessops_torch.empirical_fisher import EmpiricalFisher, empirical_fisher
from hessops_torch.fisher import Fisher, fisher
from hessops_torch.function_loss import SplitLoss
from hessops_torch.gauss_newton_trace import gauss_newton_diagonal, gauss_newton_trace
from hessops_torch.ggn import GaussNewton, ggn
from hessops_torch.gradient_covariance import GradientCovariance, gradient_covariance
from hessops_torch.hessian import Hessian, hessian
from hessops_torch.hessian_trace import HessianTraceResult, hessian_trace
from hessops_torch.jacobian import Jacobian, jacobian, ntk
from hessops_torch.landscape import Landscape, landscape
from hessops_torch.layer_curvature import layer_curvature
from hessops_torch.layer_result import LayerCurvature
from hessops_torch.objective import Objective
from hessops_torch.optimizer_metric import optimizer_metric
from hessops_torch.parameters import ParameterSpace
from hessops_torch.plan import plan
from hessops_torch.plan_result import Plan
from hessops_torch.preconditioned import Preconditioned, preconditioned
from hessops_torch.probes import fill_probes
from hessops_torch.operators.residual_curvature import ResidualCurvature, residual_curvature
from hessops_torch.sampling.sample import SamplesNeeded, SamplingError
from hessops_torch.sampling.density import DensitySamplingError, density_sampling_error
from hessops_torch.sampling.eigenvalues import eigenvalue_sampling_error
from hessops_torch.sampling.trace import trace_sampling_error
from hessops_torch.ranks.sharding import shard
from hessops_torch.operators.shift_hessian import ShiftHessian
from hessops_torch.planning.work import Work

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
