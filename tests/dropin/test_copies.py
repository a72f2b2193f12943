"""Accelerated copies of objects: pickle finds their class by name, so there may be only one of a name."""

from __future__ import annotations

import threading

from distilrt.dropin import copies


def test_threads_get_one_class() -> None:
    """Every thread waits until all are inside the making of the class, which is the worst case."""
    all_inside = threading.Barrier(4)

    class Original:
        def __init_subclass__(cls) -> None:
            all_inside.wait(10)

    made: list[object] = []
    threads = [
        threading.Thread(target=lambda: made.append(copies.accelerated_copy(Original())))
        for _ in range(all_inside.parties)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(threads)
    assert len({type(copy) for copy in made}) == 1
