"""The pool's policy, as tables: what there is and who waits, and what happens next."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from executor_service.sandboxes.base import SandboxSpec
from executor_service.sandboxes.plan import Action, Assign, Evict, Make, PoolState, Stock, plan

A = SandboxSpec(image="a")
B = SandboxSpec(image="b")
C = SandboxSpec(image="c")
EMPTY = PoolState(capacity=4, warm=2, makers=4, refills=1, refill_credit=0)
KEEP = replace(EMPTY, keep=(A,), refill_credit=None)


@pytest.mark.parametrize(
    ("state", "actions"),
    [
        pytest.param(EMPTY, [], id="nothing to do"),
        pytest.param(replace(EMPTY, waiting=[A]), [Make(spec=A)], id="a waiter gets one made"),
        pytest.param(
            replace(EMPTY, keep=(A,), waiting=[A], stock={A: Stock(ready=1)}),
            [Assign(spec=A, index=0)],
            id="a ready one is given",
        ),
        pytest.param(
            replace(EMPTY, waiting=[A], stock={A: Stock(making=1)}), [], id="one is being made for the waiter"
        ),
        pytest.param(
            replace(EMPTY, waiting=[A, A], stock={A: Stock(making=1)}),
            [Make(spec=A)],
            id="the second waiter needs another",
        ),
        pytest.param(
            replace(EMPTY, keep=(A, B), waiting=[A, B, A], stock={A: Stock(ready=1), B: Stock(ready=1)}),
            [Assign(spec=A, index=0), Assign(spec=B, index=1), Make(spec=A)],
            id="first come, first served, each by its key",
        ),
        pytest.param(replace(EMPTY, waiting=[A], leased=4), [], id="no room: wait"),
        pytest.param(
            replace(EMPTY, waiting=[A], leased=3, closing=1), [], id="what closes still has its place"
        ),
        pytest.param(
            replace(EMPTY, keep=(B,), waiting=[A], leased=3, stock={B: Stock(ready=1)}),
            [Evict(spec=B)],
            id="an idle one of another key makes room",
        ),
        pytest.param(
            replace(EMPTY, keep=(B,), waiting=[A], leased=2, closing=1, stock={B: Stock(ready=1)}),
            [],
            id="a place becomes free already: evict nothing",
        ),
        pytest.param(
            replace(EMPTY, keep=(B,), waiting=[A, C], leased=1, closing=1, stock={B: Stock(ready=2)}),
            [Evict(spec=B)],
            id="the second waiter has an idle one evicted",
        ),
        pytest.param(
            replace(EMPTY, keep=(B,), waiting=[A, B], leased=3, stock={B: Stock(ready=1)}),
            [Assign(spec=B, index=1)],
            id="what another waiter asks for is not evicted",
        ),
        pytest.param(
            replace(EMPTY, makers=2, waiting=[A, A, A]),
            [Make(spec=A), Make(spec=A)],
            id="only so many are made at a time",
        ),
        pytest.param(KEEP, [Make(spec=A, refill=True)], id="stock is made when the pool has settled"),
        pytest.param(
            replace(KEEP, refills=3), [Make(spec=A, refill=True)] * 2, id="stock is made up to the target"
        ),
        pytest.param(
            replace(KEEP, waiting=[A], stock={A: Stock(ready=2)}),
            [Assign(spec=A, index=0)],
            id="a lease unsettles the pool",
        ),
        pytest.param(replace(KEEP, refill_credit=0), [], id="no stock while work goes on"),
        pytest.param(
            replace(KEEP, refill_credit=1, refills=3),
            [Make(spec=A, refill=True)],
            id="one for each that was used up",
        ),
        pytest.param(replace(KEEP, stock={A: Stock(ready=1, making=1)}), [], id="the target is reached"),
        pytest.param(
            replace(KEEP, stock={A: Stock(ready=1)}, blocked=frozenset({A})),
            [],
            id="not again yet after a failure",
        ),
        pytest.param(
            replace(KEEP, waiting=[A], blocked=frozenset({A})),
            [Make(spec=A)],
            id="a waiter has its try after a failure",
        ),
        pytest.param(replace(KEEP, leased=4), [], id="no stock beyond capacity"),
        pytest.param(
            replace(KEEP, makers=1, refills=4, waiting=[B, B]),
            [Make(spec=B)],
            id="no stock while a waiter has nothing coming",
        ),
        pytest.param(
            replace(KEEP, keep=(A, B), refills=4, capacity=8),
            [Make(spec=A, refill=True), Make(spec=B, refill=True)] * 2,
            id="keys are filled evenly",
        ),
        pytest.param(
            replace(EMPTY, stock={A: Stock(ready=1)}), [Evict(spec=A)], id="nobody asked for it: close"
        ),
        pytest.param(
            replace(EMPTY, keep=(A,), stock={A: Stock(ready=3)}),
            [Evict(spec=A)],
            id="more than the target: close",
        ),
    ],
)
def test_plan(state: PoolState, actions: list[Action]) -> None:
    """Each state leads to exactly these actions, in this order."""
    assert plan(state) == actions


@pytest.mark.parametrize("seed", range(50))
def test_whatever_the_state_capacity_holds_and_assignments_exist(seed: int) -> None:
    """No plan makes more than there is room for, gives away what is not there, or serves one waiter twice."""
    rng = random.Random(seed)
    keys = [A, B, C]
    stock = {key: Stock(ready=rng.randrange(3), making=rng.randrange(3)) for key in keys}
    alive = sum(each.ready + each.making for each in stock.values())
    state = PoolState(
        capacity=alive + rng.randrange(4),
        warm=rng.randrange(4),
        makers=rng.randrange(1, 9),
        refills=rng.randrange(1, 4),
        stock=stock,
        waiting=[rng.choice(keys) for _ in range(rng.randrange(8))],
        keep=tuple(keys[: rng.randrange(4)]),
        refill_credit=rng.choice([None, 0, 1, 3]),
    )
    actions = plan(state)
    made = sum(isinstance(action, Make) for action in actions)
    given = [action.index for action in actions if isinstance(action, Assign)]
    assert alive + made <= state.capacity
    assert len(given) == len(set(given))
    for key in keys:
        taken = sum(action.spec == key for action in actions if not isinstance(action, Make))
        assert taken <= stock[key].ready
