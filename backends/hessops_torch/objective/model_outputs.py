"""The outputs of an objective's model for a micro-batch, as a graph to differentiate."""

from __future__ import annotations

from typing import Any

from hessops_torch.graphs.nodes import Lasting
from hessops_torch.graphs.output_graph import OutputGraph
from hessops_torch.losses.contract import require_outputs
from hessops_torch.losses.failures import name_of
from hessops_torch.objective.objective import Objective

__all__ = ["graph_of_outputs"]


def graph_of_outputs(objective: Objective, index: int, batch: Any) -> OutputGraph:
    """Return the outputs for a micro-batch with the graph behind them, while the model is ready.

    Parameters
    ----------
    objective : Objective
        Model, loss and data; the loss in two parts.
    index : int
        Of the micro-batch.
    batch : object
        The micro-batch.

    Returns
    -------
    OutputGraph
        By the parameters of the objective.
    """
    loss = require_outputs(objective.loss, "a Jacobian")
    with objective.applying(index, batch):
        outputs = loss.outputs(objective.model, batch)
    lasting = Lasting.of((objective.model, *loss.parts), batch)
    return OutputGraph(outputs, list(objective.parameters.values()), name_of(index), lasting)
