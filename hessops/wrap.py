"""In and out: anything that multiplies becomes a `LinearOperator`, and the way back to SciPy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from hessops.array_space import ArraySpace
from hessops.arrays import (
    Array,
    adjoint,
    dtype_name,
    eps,
    is_array,
    is_floating,
    namespace,
    numpy_dtype,
    numpy_namespace,
    plain,
    to_numpy,
)
from hessops.backends import backends_for
from hessops.errors import NonFiniteError
from hessops.operator import LinearOperator
from hessops.operators.declared import Declared, floating_dtype, require_as_declared, shape_pair
from hessops.operators.elementary import (
    FunctionOperator,
    MatrixOperator,
    require_finite_entries,
    space_like,
)
from hessops.operators.row_threads import RowThreads

__all__ = ["aslinearoperator", "to_scipy"]


def aslinearoperator(
    obj: Any,
    *,
    self_adjoint: bool | None = None,
    positive_semidefinite: bool = False,
    shape: int | tuple[int, int] | None = None,
    dtype: Any = None,
    adjoint_function: Callable[[Any], Any] | None = None,
    vectors_only: bool = False,
    like: Any = None,
    num_threads: int = 1,
) -> LinearOperator:
    """Make a `LinearOperator` of anything that multiplies.

    Parameters
    ----------
    obj : object
        A `LinearOperator`; a dense array of any array API library (NumPy, CuPy, torch); a SciPy or
        CuPy sparse matrix or array of any format; a SciPy or CuPy ``LinearOperator``; any object with
        ``shape`` and ``@``; a function (with `shape`); or what an installed backend converts, such
        as ``(model, loss, data)`` for PyTorch.
    self_adjoint : bool, optional
        Declares the operator equal to its conjugate transpose. A matrix whose entries are at hand
        is looked at where this is None, and refused where the declaration is wrong. False drops
        what is known.
    positive_semidefinite : bool
        Declares that no eigenvalue is negative; implies `self_adjoint`.
    shape : int or tuple of int, optional
        Needed for functions: (m, n), or n for a square one. Of anything else it has to be the shape.
    dtype : data type, optional
        For functions and for objects that do not say: the floating type of the vectors; float64
        where not given. Of anything else it has to be the dtype.
    adjoint_function : callable, optional
        For functions: the product with the conjugate transpose.
    vectors_only : bool
        For functions: they take one vector (n,) at a time, not a block (n, k).
    like : array, optional
        For functions and objects of unknown library: an array of the library and device of the
        vectors; NumPy where not given.
    num_threads : int
        For SciPy's sparse matrices: threads that share the rows of the matrix and of the vectors. The
        results are the same, to the bit, for any number.

    Returns
    -------
    LinearOperator
        The operator; `obj` itself if it is one and nothing is declared that it does not know.

    Raises
    ------
    TypeError
        If `obj` cannot be understood, or its dtype is not floating.
    ValueError
        If `obj` is not two-dimensional, or `shape` is missing, or it or `dtype` does not fit, or
        `num_threads` is no positive integer, or more than 1 for something else than it is for.
    NotSelfAdjointError
        If a matrix is declared self-adjoint and is not.
    NonFiniteError
        If a matrix holds NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from hessops import aslinearoperator
    >>> aslinearoperator(np.diag([1.0, 2.0]))
    MatrixOperator(2x2, float64, self-adjoint, ndarray)
    >>> aslinearoperator(lambda X: 3 * X, shape=5, self_adjoint=True).shape
    (5, 5)
    """
    declared = Declared(self_adjoint, positive_semidefinite)
    _require_threads(obj, num_threads)
    operator = _known(obj, declared, dtype, like, num_threads)
    if operator is not None:
        require_as_declared(operator, shape, dtype)
        if adjoint_function is not None or vectors_only:
            raise ValueError(
                f"adjoint_function and vectors_only are for functions, not for {type(obj).__name__}: "
                "leave them out"
            )
        return operator
    if callable(obj):
        return _from_function(obj, declared, shape, dtype, adjoint_function, vectors_only, like)
    raise TypeError(
        f"cannot make a linear operator of {type(obj).__name__}; expected a matrix, an object with "
        "shape and @, a function with shape=, or something an installed backend converts"
    )


def to_scipy(operator: LinearOperator) -> scipy.sparse.linalg.LinearOperator[Any]:
    """Return a SciPy ``LinearOperator``, so that SciPy's solvers run on ours unchanged.

    Parameters
    ----------
    operator : LinearOperator or anything `aslinearoperator` takes
        Of any array library; vectors are copied to and from the host where they live elsewhere.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        Of the same shape and the NumPy dtype of the same name.

    Raises
    ------
    ValueError
        If the operator's vectors are split over ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse.linalg import eigsh
    >>> from hessops import Diagonal, to_scipy
    >>> A = Diagonal(np.arange(50.0))
    >>> eigsh(to_scipy(A), k=1, return_eigenvectors=False).round(6)
    array([49.])
    """
    operator = aslinearoperator(operator)
    if operator.domain.comm.size > 1:
        raise ValueError("SciPy cannot work on vectors that are split over ranks")
    dtype = numpy_dtype(operator.dtype)

    def on_host(product: Callable[[Array], Array], space: Any) -> Callable[[Any], Any]:
        def multiply(X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            block = X.astype(np.result_type(dtype, X.dtype) if np.iscomplexobj(X) else dtype)
            moved = space.xp.asarray(np.ascontiguousarray(block), device=space.device)
            return to_numpy(product(moved))

        return multiply

    forward = on_host(operator.apply, operator.domain)
    backward = on_host(operator.apply_adjoint, operator.codomain)
    return scipy.sparse.linalg.LinearOperator(
        operator.shape,
        matvec=forward,
        rmatvec=backward,
        matmat=forward,
        rmatmat=backward,
        dtype=dtype,
    )


def _known(
    obj: Any, declared: Declared, dtype: Any, like: Any, num_threads: int
) -> LinearOperator | None:
    """Return the operator of what tells its own shape; None of what does not."""
    if isinstance(obj, LinearOperator):
        return declared.applied_to(obj)
    if scipy.sparse.issparse(obj):
        return _from_sparse(obj, declared, num_threads)
    obj = plain(obj)
    if is_array(obj) and not _is_foreign_sparse(obj):
        return _from_dense(obj, declared)
    converted = _from_backend(obj)
    if converted is not None:
        return declared.applied_to(converted)
    if hasattr(obj, "shape") and (hasattr(obj, "matmat") or hasattr(obj, "__matmul__")):
        return _from_multiplier(obj, declared, dtype, like)
    return None


def _from_dense(matrix: Any, declared: Declared) -> LinearOperator:
    matrix = matrix.detach() if hasattr(matrix, "detach") else matrix
    xp = namespace(matrix)
    _require_matrix(matrix.shape)
    if not is_floating(xp, matrix.dtype):
        raise TypeError(_integer_message(matrix.dtype))
    require_finite_entries(matrix, "the matrix")
    structure = declared.unseen()
    rows, columns = matrix.shape
    if rows == columns and rows > 0:
        largest = float(xp.max(xp.abs(matrix)))
        asymmetry = float(xp.max(xp.abs(matrix - adjoint(matrix))))
        structure = declared.held_against(asymmetry, largest, eps(xp, matrix.dtype))
    return MatrixOperator(
        matrix,
        space_like(matrix, columns),
        space_like(matrix, rows),
        adjoint_matrix=adjoint(matrix),
        structure=structure,
    )


def _from_sparse(matrix: Any, declared: Declared, num_threads: int) -> LinearOperator:
    if matrix.ndim != 2:
        raise ValueError(f"expected a matrix, got a sparse array of shape {matrix.shape}")
    if not np.issubdtype(matrix.dtype, np.inexact):
        raise TypeError(_integer_message(matrix.dtype))
    matrix = scipy.sparse.csr_array(matrix)
    if not np.all(np.isfinite(matrix.data)):
        bad = int(np.sum(~np.isfinite(matrix.data)))
        raise NonFiniteError(f"the matrix holds {bad} entries that are NaN or infinite")
    flipped = scipy.sparse.csr_array(matrix.conj().T)
    structure = declared.unseen()
    if matrix.shape[0] == matrix.shape[1]:
        largest = float(np.max(np.abs(matrix.data), initial=0.0))
        asymmetry = float(np.max(np.abs((matrix - flipped).data), initial=0.0))
        structure = declared.held_against(asymmetry, largest, float(np.finfo(matrix.dtype).eps))
    rows, columns = matrix.shape
    forward, backward = (
        part if num_threads == 1 else RowThreads(part, num_threads) for part in (matrix, flipped)
    )
    return MatrixOperator(
        forward,
        ArraySpace(columns, matrix.dtype, num_threads=num_threads),
        ArraySpace(rows, matrix.dtype, num_threads=num_threads),
        adjoint_matrix=backward,
        structure=structure,
    )


def _from_multiplier(obj: Any, declared: Declared, dtype: Any, like: Any) -> LinearOperator:
    _require_matrix(obj.shape)
    rows, columns = (int(size) for size in obj.shape)
    example = _example_array(obj, dtype, like)
    domain, codomain = space_like(example, columns), space_like(example, rows)
    if hasattr(obj, "matmat"):
        return FunctionOperator(
            obj.matmat,
            domain,
            codomain,
            adjoint_function=_adjoint_product(obj),
            structure=declared.unseen(),
        )
    return MatrixOperator(
        obj, domain, codomain, adjoint_matrix=getattr(obj, "H", None), structure=declared.unseen()
    )


def _adjoint_product(obj: Any) -> Callable[[Any], Any] | None:
    if not hasattr(obj, "rmatmat"):
        return None

    def multiply(X: Any) -> Any:
        try:
            return obj.rmatmat(X)
        except TypeError as error:
            # What SciPy does with an operator that was given no rmatvec.
            if "'NoneType' object is not callable" not in str(error):
                raise
            raise NotImplementedError(f"{obj} has no adjoint: give it rmatvec") from error

    return multiply


def _from_function(
    function: Callable[[Any], Any],
    declared: Declared,
    shape: int | tuple[int, int] | None,
    dtype: Any,
    adjoint_function: Callable[[Any], Any] | None,
    vectors_only: bool,
    like: Any,
) -> LinearOperator:
    if shape is None:
        raise ValueError("a function does not tell its size: pass shape=n or shape=(m, n)")
    rows, columns = shape_pair(shape)
    example = _example_array(function, dtype, like)
    return FunctionOperator(
        function,
        space_like(example, columns),
        space_like(example, rows),
        adjoint_function=adjoint_function,
        vectors_only=vectors_only,
        structure=declared.unseen(),
    )


def _from_backend(obj: Any) -> LinearOperator | None:
    """Ask the backend that is registered for the library which the type of `obj` comes from."""
    example = obj[0] if isinstance(obj, tuple) and obj else obj
    libraries = dict.fromkeys(base.__module__.partition(".")[0] for base in type(example).__mro__)
    for library in libraries:
        for backend in backends_for(library):
            converted: LinearOperator | None = backend.convert(obj)
            if converted is not None:
                return converted
    return None


def _example_array(obj: Any, dtype: Any, like: Any) -> Any:
    """Return an empty array of the library, device and precision that `obj` works with."""
    if like is not None:
        if not is_array(like):
            raise TypeError(
                f"like={like!r} is no array: give one of the library and on the device of the vectors"
            )
        xp = namespace(like)
        return like if dtype is None else xp.astype(like, floating_dtype(xp, dtype))
    library = type(obj).__module__.partition(".")[0]
    xp = numpy_namespace
    if library in {"cupy", "cupyx"}:
        xp = import_module("array_api_compat.cupy")
    elif is_array(obj):
        xp = namespace(obj)
    own = getattr(obj, "dtype", None)
    chosen = own if own is not None else xp.float64
    if dtype is not None:
        chosen = floating_dtype(xp, dtype)
    if not xp.isdtype(chosen, ("real floating", "complex floating")):
        # SciPy guesses int8 of a function that keeps the dtype of what it multiplies.
        raise TypeError(
            f"the {type(obj).__name__} has the dtype {dtype_name(chosen)}, and products would be "
            "rounded to it; pass dtype='float64' if it multiplies floating-point vectors"
        )
    return xp.empty(0, dtype=chosen, device=getattr(obj, "device", None) if is_array(obj) else None)


def _is_foreign_sparse(obj: Any) -> bool:
    # torch keeps sparse tensors under the same type as dense ones; CuPy does not.
    return "strided" not in str(getattr(obj, "layout", "strided"))


def _require_threads(obj: Any, num_threads: Any) -> None:
    if not isinstance(num_threads, int | np.integer) or num_threads < 1:
        raise ValueError(f"num_threads={num_threads!r} must be a positive integer")
    if num_threads > 1 and not scipy.sparse.issparse(obj):
        raise ValueError(
            f"num_threads={num_threads} is for SciPy's sparse matrices, not for {type(obj).__name__}: "
            "leave it out; products of dense matrices use the threads of the BLAS library"
        )


def _require_matrix(shape: Any) -> None:
    if len(shape) != 2 or 0 in tuple(shape):
        raise ValueError(f"expected a matrix with at least one row and column, got shape {shape}")


def _integer_message(dtype: Any) -> str:
    return (
        f"the matrix has the dtype {dtype_name(dtype)}, and products would be rounded to it; convert "
        "it to a floating type first, e.g. A.astype('float64')"
    )
