"""The budget of large bodies: bounded, fair between clients, and given back."""

from __future__ import annotations

import asyncio

from distilrt.server.memory import Budget


def test_a_client_has_half_and_the_one_with_least_goes_first() -> None:
    async def main() -> None:
        budget, order = Budget(8), []

        async def take(client: str, size: int) -> None:
            order.append((client, await budget.take(client, size)))

        waiting = [asyncio.create_task(take(client, 2)) for client in "aaabcc"]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == [("a", 2), ("a", 2), ("b", 2), ("c", 2)]
        budget.give("a", 2)
        await asyncio.sleep(0.01)
        assert order[4:] == [("c", 2)] or order[4:] == [("a", 2)]
        budget.give("b", 2)
        await asyncio.gather(*waiting)
        for client in "acc":
            budget.give(client, 2)
        budget.give("a", 2)
        assert await budget.take("d", 100) == 4  # as much as one may have

    asyncio.run(main())


def test_who_is_cancelled_holds_nothing() -> None:
    async def main() -> None:
        budget = Budget(4)
        assert await budget.take("a", 2) == 2
        given_up = asyncio.create_task(budget.take("a", 2))
        await asyncio.sleep(0)
        given_up.cancel()
        budget.give("a", 2)
        await asyncio.sleep(0)
        assert await asyncio.wait_for(budget.take("a", 2), 5) == 2
        assert await asyncio.wait_for(budget.take("b", 2), 5) == 2

    asyncio.run(main())
