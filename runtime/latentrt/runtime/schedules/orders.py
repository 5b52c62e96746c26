"""Of which order each step of a solver is."""

from __future__ import annotations

__all__ = ["multistep_orders", "singlestep_orders"]


def multistep_orders(
    order: int, steps: int, *, lower_last: bool, first_last: bool
) -> tuple[int, ...]:
    """How many predictions each step of a multistep solver goes by.

    They rise with the number of predictions made so far, up to `order`. With `lower_last` they fall
    to 1 again over the last steps, with `first_last` at the last one.
    """
    orders = [min(order, i + 1) for i in range(steps)]
    if lower_last:
        orders = [min(one, steps - i) for i, one in enumerate(orders)]
    if first_last:
        orders[-1] = 1
    return tuple(orders)


def singlestep_orders(
    order: int, steps: int, *, lower_last: bool, first_last: bool
) -> tuple[int, ...]:
    """The orders, from 1 to `order` again and again, of the evaluations of a singlestep solver.

    The last is 1 with `first_last`, and with `lower_last` where it would be the full order.

    Source: diffusers' `DPMSolverSinglestepScheduler.get_order_list`.
    """
    orders = [1 + i % order for i in range(steps)]
    if first_last or (lower_last and orders[-1] == order):
        orders[-1] = 1
    return tuple(orders)
