"""Structure: every rule of the table is a law, and says as much as it may."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    LEAVES,
    NODES,
    Place,
    blocks,
    general_matrix,
    hermitian_part,
    norm,
    normal,
    operators,
    orthonormal,
    places,
    psd_matrix,
    self_adjoint_matrix,
    sizes,
    space_at,
)

from hessops import (
    Adjoint,
    BlockDiagonal,
    Diagonal,
    FiniteSum,
    Identity,
    LowRank,
    Product,
    Projected,
    Scaled,
    Shifted,
    Structure,
    Sum,
    aslinearoperator,
)
from hessops.arrays import to_numpy
from hessops.structure import GENERAL, POSITIVE_SEMIDEFINITE, PROPAGATION, SELF_ADJOINT

PARTS = {
    GENERAL: general_matrix,
    SELF_ADJOINT: self_adjoint_matrix,
    POSITIVE_SEMIDEFINITE: psd_matrix,
}
TAGS = tuple(PARTS)
TAG_PAIRS = tuple(itertools.product(TAGS, TAGS))
SCALARS = (-2.0, 0.0, 3.0, 2.0 + 0j, -0.5j, 1.0 + 1j)


class Law:
    """Random instances of the node that one rule is about.

    `build(tags, scalar)` draws parts of the given structures and makes the node of them.
    """

    def __init__(self, data):
        self.data = data
        self.place = data.draw(places())
        self.n = data.draw(sizes(4))
        self.size = 1.0

    def part(self, tag):
        known = self.data.draw(operators(self.place, self.n, root=PARTS[tag]))
        self.size += known.size
        return known.operator

    def sum(self, tags, scalar):
        return Sum([self.part(tag) for tag in tags])

    def scaled(self, tags, scalar):
        return Scaled(self.part(tags[0]), scalar)

    def product(self, tags, scalar):
        return Product([self.part(tag) for tag in tags])

    def congruence(self, tags, scalar):
        B, M = self.part(GENERAL), self.part(tags[0])
        return B.H @ M @ B

    def adjoint(self, tags, scalar):
        return Adjoint(self.part(tags[0]))

    def shifted(self, tags, scalar):
        return Shifted(self.part(tags[0]), scalar)

    def projected(self, tags, scalar):
        V = orthonormal(1, (self.n, self.n - 1), self.place.dtype)
        return Projected(self.part(tags[0]), self.place.put(V))

    def finite_sum(self, tags, scalar):
        weights = [1.5, complex(scalar).real][: len(tags)]
        return FiniteSum([self.part(tag) for tag in tags], weights)

    def block_diagonal(self, tags, scalar):
        return BlockDiagonal([self.part(tag) for tag in tags])

    def build(self, rule, tags, scalar):
        return getattr(self, rule.replace(" ", "_"))(tags, scalar)


every_rule = pytest.mark.parametrize("rule", sorted(PROPAGATION))


def assert_claims_hold(operator, size, eps):
    """What is declared self-adjoint or positive semidefinite is so, to rounding."""
    matrix = to_numpy(operator.to_dense()).astype(np.complex128)
    rounding = 64 * len(matrix) * eps * size
    if operator.structure.self_adjoint:
        assert norm(matrix - matrix.conj().T) <= rounding
    if operator.structure.positive_semidefinite:
        assert np.linalg.eigvalsh(matrix)[0] >= -rounding


@every_rule
@pytest.mark.parametrize("tags", TAG_PAIRS, ids=lambda pair: f"{pair[0]}, {pair[1]}")
@settings(max_examples=3)
@given(data=st.data())
def test_what_a_rule_claims_is_so(rule, tags, data):
    for scalar in SCALARS:
        law = Law(data)
        operator = law.build(rule, tags, scalar)
        degree = {"congruence": 3, "product": 2}.get(rule, 1)
        assert_claims_hold(operator, (2 + abs(scalar)) * law.size**degree, law.place.eps)


FIRST = {
    GENERAL: normal(0, (3, 3)),
    SELF_ADJOINT: np.diag([1.0, -3.0, 0.5]),
    POSITIVE_SEMIDEFINITE: np.diag([2.0, 0.0, 1.0]),
}
SECOND = {
    GENERAL: normal(1, (3, 3)),
    SELF_ADJOINT: np.array([[-3.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    POSITIVE_SEMIDEFINITE: np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
}


class Counterexample(Law):
    """One fixed instance that has no structure but what a rule can know of."""

    def __init__(self):
        self.place, self.n = Place("numpy", "float64"), 3
        self.tables = [SECOND, FIRST]

    def part(self, tag):
        return declared(tag, self.tables.pop()[tag])

    def congruence(self, tags, scalar):
        B, M = aslinearoperator(normal(5, (3, 3))), self.part(tags[0])
        return B.H @ M @ B

    def projected(self, tags, scalar):
        return Projected(self.part(tags[0]), np.eye(3)[:, 2:])


def declared(tag, matrix):
    return aslinearoperator(
        matrix, self_adjoint=tag.self_adjoint, positive_semidefinite=tag.positive_semidefinite
    )


def without_zero_factors(cases):
    # 0 * A is semidefinite whatever A is, and a sum with weight 0 lacks a term.
    for rule, tags, scalar in cases:
        vanishes = complex(scalar).real == 0 if rule == "finite sum" else scalar == 0
        if not (rule in {"scaled", "finite sum"} and vanishes):
            yield rule, tags, scalar


@pytest.mark.parametrize(
    ("rule", "tags", "scalar"),
    list(without_zero_factors(itertools.product(sorted(PROPAGATION), TAG_PAIRS, SCALARS))),
)
def test_a_rule_is_silent_only_where_a_counterexample_exists(rule, tags, scalar):
    operator = Counterexample().build(rule, tags, scalar)
    matrix = operator.to_dense()
    if not operator.structure.self_adjoint:
        assert np.abs(matrix - matrix.conj().T).max() > 1e-3
    elif not operator.structure.positive_semidefinite:
        assert np.linalg.eigvalsh(matrix)[0] < -1e-3


@pytest.mark.parametrize("node", LEAVES + NODES, ids=lambda node: node.__name__)
@given(data=st.data())
def test_what_any_node_claims_is_so(node, data):
    place, n = data.draw(places()), data.draw(sizes(4))
    known = data.draw(operators(place, n, root=node, depth=3))
    assert_claims_hold(known.operator, known.size, place.eps)
    for term in known.operator.terms():
        assert_claims_hold(term, known.size, place.eps)


A, B = (declared(GENERAL, normal(seed, (3, 3))) for seed in (0, 1))
S, T = (declared(SELF_ADJOINT, hermitian_part(normal(seed, (3, 3)))) for seed in (0, 1))
P = declared(POSITIVE_SEMIDEFINITE, normal(0, (3, 2)) @ normal(0, (3, 2)).T)
I3 = Identity(3)


@pytest.mark.parametrize(
    ("operator", "structure"),
    [
        (A, GENERAL), (S, SELF_ADJOINT), (P, POSITIVE_SEMIDEFINITE),
        (S + T, SELF_ADJOINT), (P + P, POSITIVE_SEMIDEFINITE), (S + P, SELF_ADJOINT),
        (A + P, GENERAL), (S - P, SELF_ADJOINT), (A - A, GENERAL),
        (2 * P, POSITIVE_SEMIDEFINITE), (0 * P, POSITIVE_SEMIDEFINITE), (-2 * P, SELF_ADJOINT),
        (2j * P, GENERAL), ((2 + 0j) * P, POSITIVE_SEMIDEFINITE), (1j * (1j * S), SELF_ADJOINT),
        (P / 2, POSITIVE_SEMIDEFINITE), (-P, SELF_ADJOINT),
        (A @ B, GENERAL), (S @ T, GENERAL), (P @ S, GENERAL), (P @ A, GENERAL),
        (S @ S, POSITIVE_SEMIDEFINITE), (A @ A, GENERAL), (S @ S @ S, SELF_ADJOINT),
        (A.H @ A, POSITIVE_SEMIDEFINITE), (A @ A.H, POSITIVE_SEMIDEFINITE),
        (A.H @ S @ A, SELF_ADJOINT), (A @ P @ A.H, POSITIVE_SEMIDEFINITE),
        (A.H @ B, GENERAL), (A.H @ B @ A, GENERAL), (B.H @ S @ A, GENERAL),
        (A.H @ B.H @ B @ A, POSITIVE_SEMIDEFINITE), (A.H @ B.H @ A @ B, GENERAL),
        ((A @ B).H @ (A @ B), POSITIVE_SEMIDEFINITE), ((A @ B) @ (A @ B).H, POSITIVE_SEMIDEFINITE),
        ((S @ A).H @ T @ (S @ A), SELF_ADJOINT), ((A @ B).H @ (B @ A), GENERAL),
        (A.H, GENERAL), (S.H, SELF_ADJOINT), (P.H, POSITIVE_SEMIDEFINITE),
        (S - 2 * I3, SELF_ADJOINT), (P - 2 * I3, SELF_ADJOINT), (P + 2 * I3, POSITIVE_SEMIDEFINITE),
        (P - 0 * I3, POSITIVE_SEMIDEFINITE), (S - 2j * I3, GENERAL), (A - 2 * I3, GENERAL),
        (Projected(A, np.eye(3)[:, :1]), GENERAL), (Projected(S, np.eye(3)[:, :1]), SELF_ADJOINT),
        (Projected(P, np.eye(3)[:, :1]), POSITIVE_SEMIDEFINITE),
        (FiniteSum([P, P], [0.5, 2.0]), POSITIVE_SEMIDEFINITE),
        (FiniteSum([P, P], [0.5, -2.0]), SELF_ADJOINT), (FiniteSum([P, S]), SELF_ADJOINT),
        (FiniteSum([P, A]), GENERAL), (FiniteSum([P, P]), POSITIVE_SEMIDEFINITE),
        (BlockDiagonal([P, S]), SELF_ADJOINT), (BlockDiagonal([P, P]), POSITIVE_SEMIDEFINITE),
        (BlockDiagonal([P, A]), GENERAL),
        (I3, POSITIVE_SEMIDEFINITE), (-I3, SELF_ADJOINT),
        (Diagonal(np.array([1.0, 0.0])), POSITIVE_SEMIDEFINITE),
        (Diagonal(np.array([1.0, -0.1])), SELF_ADJOINT), (Diagonal(np.array([1j, 1.0])), GENERAL),
        (LowRank(np.ones((3, 1))), POSITIVE_SEMIDEFINITE),
        (LowRank(np.ones((3, 1)), np.array([-1.0])), SELF_ADJOINT),
        (LowRank(np.ones((3, 1)), np.array([1j])), GENERAL),
        (LowRank(normal(0, (3, 2)), normal(1, (2, 2))), GENERAL),
        (LowRank(np.ones((3, 1)), right=np.ones((3, 1))), GENERAL),
    ],
)  # fmt: skip
def test_structure_is_claimed_where_it_should_be(operator, structure):
    assert operator.structure == structure


@given(places(), st.data())
def test_low_rank_operators_are_what_their_core_is(place, data):
    n, r = 4, data.draw(sizes(3))
    U, C = data.draw(blocks(n, r, place.dtype)), data.draw(blocks(r, r, place.dtype))
    size = 1 + norm(U) ** 2 * (1 + norm(C) ** 2)
    for core in (C, C + C.conj().T, C @ C.conj().T, C[:, 0]):
        operator = LowRank(place.put(U), place.put(core))
        assert_claims_hold(operator, size, place.eps)
    hermitian = place.put(C + C.conj().T)
    assert LowRank(place.put(U), hermitian).structure.self_adjoint


@given(places(), st.data())
def test_diagonal_operators_are_what_their_entries_are(place, data):
    values = data.draw(blocks(4, 1, place.dtype))[:, 0]
    assert_claims_hold(Diagonal(place.put(values)), 1 + norm(values), place.eps)
    if not place.is_complex:
        assert Diagonal(place.put(values)).structure.self_adjoint
        assert Diagonal(place.put(abs(values))).structure.positive_semidefinite


def test_semidefinite_implies_self_adjoint():
    assert Structure(positive_semidefinite=True).self_adjoint
    assert Structure(positive_semidefinite=True, self_adjoint=False).self_adjoint


def test_structure_prints_as_words():
    assert [str(tag) for tag in TAGS] == ["general", "self-adjoint", "positive semidefinite"]


@pytest.mark.parametrize("library", ["strict", "numpy"])
def test_the_identity_of_any_space_is_semidefinite(library):
    space = space_at(Place(library, "complex64"), 3)
    assert Identity(space).structure == POSITIVE_SEMIDEFINITE
    assert Identity(space).H.structure == POSITIVE_SEMIDEFINITE
