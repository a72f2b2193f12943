"""workspace.py: arrays do not overlap unless they share a place, and views have their shapes and bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distilrt.backends.cuda.workspace import ALIGNMENT, Array, Place, Workspace, lay_out

DTYPES = ("float32", "float16", "bfloat16", "int32")


def random_places(rng: np.random.Generator) -> list[Place]:
    places: list[Place] = []
    for i in range(int(rng.integers(1, 9))):
        arrays = tuple(
            Array(f"{i}.{j}", tuple(rng.integers(0, 9, rng.integers(1, 4)).tolist()), str(rng.choice(DTYPES)))
            for j in range(int(rng.integers(1, 4)))
        )
        places.append(arrays if len(arrays) > 1 else arrays[0])
    return places


@pytest.mark.parametrize("seed", range(40))
def test_places_are_aligned_and_apart(seed: int) -> None:
    places = random_places(np.random.default_rng(seed))
    layout = lay_out(places)
    starts = {array.name: start for start, array in layout.arrays}
    end = 0
    for place in places:
        sharers = place if isinstance(place, tuple) else (place,)
        assert {starts[array.name] for array in sharers} == {end}
        assert end % ALIGNMENT == 0
        end += max(array.nbytes for array in sharers)
        end += -end % ALIGNMENT
    assert layout.nbytes == end


@pytest.mark.parametrize("seed", range(10))
def test_views_keep_what_is_written(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = lay_out([place for place in random_places(rng) if isinstance(place, Array)])
    workspace = Workspace(layout.nbytes + 1000, torch.device("cpu"))
    assert workspace.nbytes == layout.nbytes + 1000
    views = workspace.views(layout)
    for number, view in enumerate(views.values()):
        view.fill_(number)
    for number, (_, array) in enumerate(layout.arrays):
        view = views[array.name]
        assert (tuple(view.shape), str(view.dtype)) == (array.shape, f"torch.{array.dtype}")
        assert (view == number).all()


def test_sharers_share_and_layouts_overlap() -> None:
    layout = lay_out(
        [(Array("small", (2,), "float32"), Array("large", (4, 2), "float16")), Array("after", (1,), "int32")]
    )
    workspace = Workspace(layout.nbytes, torch.device("cpu"))
    views = workspace.views(layout)
    assert views["small"].data_ptr() == views["large"].data_ptr()
    assert views["after"].data_ptr() - views["small"].data_ptr() == ALIGNMENT
    other = workspace.views(lay_out([Array("other", (5,), "float32")]))["other"]
    assert other.data_ptr() == views["small"].data_ptr()
    workspace.fill(255)
    assert views["small"].isnan().all()
    assert views["large"].isnan().all()
    assert views["after"].item() == -1
