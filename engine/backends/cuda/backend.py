"""The GPU backend: packed batches through captured graphs, heads on the device, at the edge NumPy arrays or tensors.

A batch packed on the host goes over in one copy from pinned memory; one that already lies on the device is the business
of `distilrt.backends.cuda.padded`. Longer batches than the largest bucket run in parts of whole sequences. What is
launched, `distilrt.backends.cuda.encoder` knows. A bucket has two forms: the last layer finishes all rows, or the few
that a head reads. The model's own head is captured with the form that it reads.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Mapping
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
import numpy.typing as npt
import torch

from distilrt import env
from distilrt.backends.cuda.devices import chosen_dtype, float32_precision
from distilrt.backends.cuda.encoder import DeviceEncoder, Rows, Stage
from distilrt.backends.cuda.graphs import Bucket, Graphs
from distilrt.backends.cuda.inputs import Errors
from distilrt.backends.cuda.padded import PaddedForwards
from distilrt.backends.cuda.parts import Part, divide
from distilrt.backends.cuda.staging import Staging
from distilrt.backends.cuda.stream import Turns
from distilrt.backends.cuda.warm_up import warm_up
from distilrt.batch import Batch, IndexArray
from distilrt.checkpoint.gpu_tensors import packed_for_gpu
from distilrt.checkpoint.packing import PackedWeights
from distilrt.checkpoint.pickle_file import stored_numbers
from distilrt.errors import BackendError
from distilrt.kernels.gather import gather
from distilrt.kernels.layer_norm import layer_norm
from distilrt.kernels.linear import linear
from distilrt.kernels.quantize import Quantized
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig
from distilrt.model.heads import ENCODER, Head

if TYPE_CHECKING:  # it loads the tokenizer
    from distilrt.checkpoint.calibration import Calibration

Key = tuple[Bucket, bool, Staging | None]  # A graph's bucket, whether it finishes few rows, its pinned memory.


class CudaBackend(PaddedForwards):
    """DistilBERT on a GPU. Safe to call from many threads and streams; forwards of one model follow one another.

    Everything runs on the caller's current stream. Tensors that are returned come from torch's caching allocator;
    nothing else is allocated after loading, and only `to_numpy` waits for the device.
    """

    name = "cuda"

    def __init__(
        self,
        config: DistilBertConfig,
        weights: Mapping[str, npt.NDArray[Any]],
        device: torch.device,
        *,
        dtype: str = "auto",
        calibration: Calibration | None = None,
        head: Head = ENCODER,
    ) -> None:
        """Copy `weights` to the device, allocate the workspace and capture the graphs.

        Graphs are captured now and not when a bucket is first met: a capture compiles kernels, takes memory and must
        not meet other work of the model, none of which belongs into somebody's request. float32 products are what
        torch's own are asked to be now (`distilrt.backends.cuda.devices.float32_precision`).

        Args:
            config: the model's shape.
            weights: canonical names to float32 arrays, or packed for this backend, which then are copied as they are.
            device: from `distilrt.backends.cuda.devices.cuda_device`; a CPU only while Triton interprets, then without
                graphs.
            dtype: one of `distilrt.backends.cuda.devices.DTYPES`, or "auto": what the checkpoint has.
            calibration: how float8 and int8 round weights, and which layers they keep in bfloat16; None: every weight
                by itself to the nearest.
            head: the model's, which is captured behind the encoder; but not one over the vocabulary, whose output is
                as large as thousands of hidden states.

        Raises:
            BackendError: another dtype, or the device has too little free memory.
        """
        self.dtype, self.device = chosen_dtype(dtype, weights), str(device)
        self._device, self._turns = device, Turns(device)
        # The workspace goes back to torch's cache for the stream of the load: no other stream may still work in it.
        finalize(self, self._turns.wait_for_all)
        self.config, self.head = config, head
        if not isinstance(weights, PackedWeights):
            weights = packed_for_gpu(config, weights, head.architecture, self.dtype, calibration)
        self.packing = weights.packing
        self._captured = head if head.layers and head.width != "vocab_size" else None
        width = head.width
        self._width = width if isinstance(width, int) else int(getattr(config, width))
        limit = env.gpu_memory()
        try:
            with self._turns.current():
                most = None if limit is None else limit << 20
                self.encoder = DeviceEncoder(config, weights, device, most, float32_precision())
                self._torch_dtype = getattr(torch, self.encoder.row_dtype)
                self._stagings = {bucket: self._two_stagings(bucket) for bucket in self.encoder.buckets}
                self._unused: dict[Bucket, SimpleQueue[Staging]] = {bucket: SimpleQueue() for bucket in self._stagings}
                for bucket, both in self._stagings.items():
                    for staging in both:
                        self._unused[bucket].put(staging)
                self._errors = Errors(device)
                self._numbers = torch.arange(self.encoder.buckets[-1].tokens, device=device)
                self._graphs = self._capture() if self._turns.on_gpu else None
                if self._graphs is not None:
                    warm_up(self)
        except RuntimeError as error:  # torch's allocator has a class for it, CUDA and Triton only say so
            if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error).lower():
                raise
            self._free(error)
            raise BackendError(
                f"{device} has too little free memory to load this model: {error}. Free some, lower "
                "DISTILRT_GPU_MEMORY, take a narrower dtype, or use backend='cpu'"
            ) from None

    def _two_stagings(self, bucket: Bucket) -> list[Staging]:
        """One is filled while the other's batch runs. There are as many rows of output as the captured head has."""
        head = self._captured
        rows = 0 if head is None else bucket.seqs if head.reads == "first" else bucket.tokens
        return [Staging(self.encoder.buffers[bucket], rows, self._width, self._turns.event()) for _ in range(2)]

    def _capture(self) -> Graphs:
        self.encoder.workspace.fill(0)  # an empty batch for the captures
        forms = (False, True) if self._captured is None else (self._captured.reads == "first",)
        keys = [(bucket, few, staging) for bucket in self.encoder.buckets[::-1] for few in forms
                for staging in (None, *self._stagings[bucket])]  # fmt: skip
        return Graphs(keys, self._launch)

    def forward(self, batch: Batch, all_layers: bool = False, wanted: IndexArray | None = None) -> torch.Tensor:
        """The last hidden states `[total_tokens, hidden_size]`, all layers' with one axis more, or the wanted rows.

        Raises:
            ValueError: wanted rows that do not rise or are not there.
            InvalidInput: an earlier batch of tensors was wrong (see `run_padded`).
            TooLong: a sequence has more rows than the largest bucket.
        """
        parts = self._parts(batch, wanted)
        layers = (self.config.num_layers + 1,) if all_layers else ()
        out = self._empty(*layers, parts[-1].out.stop if parts else 0, self.config.hidden_size)
        for part in parts:
            values, staging = out[..., part.out, :], self._unused[part.bucket].get()
            try:
                staging.fill(part, batch, wanted)
                work = partial(self._forward, part, batch, staging, values, all_layers)
                self._turns.turn(work, staging.done)
            finally:
                self._unused[part.bucket].put(staging)
        return out

    def _forward(self, part: Part, batch: Batch, staging: Staging, out: torch.Tensor, all_layers: bool) -> None:
        if all_layers:
            staging.send()
            self.encoder.launch(part.bucket, embeds=self._embeds(part, batch), visit=partial(_copy_layer, out))
            return
        stage, _ = self._replay_part((part.bucket, part.few, staging), part, batch)
        if part.few or part.out == part.rows:
            out.copy_(stage.hidden[: len(out)])
        else:
            gather(out, stage.hidden, self.encoder.buffers[part.bucket].index[: len(out)])

    def answer(self, batch: Batch, wanted: IndexArray | None = None) -> npt.NDArray[np.float32]:
        """The head's output `[n, width]` for the rows that `forward` returns; errors as there.

        Over the rows that the head was captured for it takes, a bucket, one graph, which copies both ways.
        """
        parts = self._parts(batch, wanted) if self._captured else []
        few = self.head.reads == "first"
        if not parts or (wanted is None) == few or [part for part in parts if part.few != few]:
            return self.to_numpy(self.head.compute(self, self.forward(batch, wanted=wanted)))
        answer = np.empty((parts[-1].out.stop, self._width), np.float32)
        running: deque[tuple[Part, Staging]] = deque()
        try:
            for part in parts:
                # Whoever waits for another call's memory holds none itself: so nobody waits for ever.
                while running and self._unused[part.bucket].empty():
                    self._read(running, answer)
                staging = self._unused[part.bucket].get()
                running.append((part, staging))
                staging.fill(part, batch, wanted)
                key = (part.bucket, few, staging)
                self._turns.turn(partial(self._replay_part, key, part, batch), staging.done)
            while running:
                self._read(running, answer)
        finally:  # After an error some are left.
            for part, staging in running:
                self._unused[part.bucket].put(staging)
        return answer

    def _read(self, running: deque[tuple[Part, Staging]], answer: npt.NDArray[np.float32]) -> None:
        """Wait for the first part's rows, and give its memory back."""
        part, staging = running[0]
        staging.read(answer[part.out])
        running.popleft()
        self._unused[part.bucket].put(staging)

    def _parts(self, batch: Batch, wanted: IndexArray | None) -> list[Part]:
        self._errors.raise_known()
        # Where no graph finishes few rows, all of them are cheaper than launches one by one.
        few = self._captured is None or self._captured.reads == "first"
        return divide(batch, wanted, self.encoder.buckets, self._device, few=few)

    def _embeds(self, part: Part, batch: Batch) -> torch.Tensor | None:
        """A bucket's word embeddings from the host, where the batch has them in place of ids."""
        if batch.inputs_embeds is None:
            return None
        embeds = self._empty(part.bucket.tokens, self.config.hidden_size, dtype=torch.float32)
        values = torch.tensor(batch.inputs_embeds[part.rows], device="cpu")
        embeds[: len(values)].copy_(values, non_blocking=True)
        return embeds

    def _replay_part(self, key: Key, part: Part, batch: Batch) -> tuple[Stage, torch.Tensor | None]:
        return self._replay(key, self._embeds(part, batch))

    def _replay(self, key: Key, embeds: torch.Tensor | None = None) -> tuple[Stage, torch.Tensor | None]:
        """A bucket in one form: its graph, or launch by launch where there is none."""
        if self._graphs is None or embeds is not None or key not in self._graphs:
            return self._launch(key, embeds)
        found: tuple[Stage, torch.Tensor | None] = self._graphs.replay(key)
        return found

    def _launch(self, key: Key, embeds: torch.Tensor | None = None) -> tuple[Stage, torch.Tensor | None]:
        """The stage with the hidden states, and the head's output if it reads such rows."""
        bucket, few, staging = key
        if staging is not None:
            staging.send()
        stage = self.encoder.launch(bucket, few=few, embeds=embeds)
        if self._captured is None or few != (self._captured.reads == "first"):
            return stage, None
        rows = Rows(stage.hidden, stage.num_rows, self.encoder.pdl)
        scores: torch.Tensor = self._captured.compute(self, rows).values
        if staging is not None:
            staging.receive(scores)
        return stage, scores

    def linear(self, name: str, rows: Any, activation: str | None = None) -> Any:
        """`activation(rows @ weight.T + bias)` with a head's layer; float32 where it is a head's last, which has none.

        Rows are a tensor `[n, in]`, or `Rows`; so is the result.
        """
        weight, bias = self.encoder.linears[name]
        values, count, pdl = _values(rows)
        values = values.to(self._torch_dtype).contiguous()  # a pooler's rows may come from outputs
        out = self._empty(len(values), len(bias), dtype=torch.float32 if activation is None else None)
        with self._turns.current():
            linear(out, values, weight, bias, activation=activation or "", num_tokens=count,
                   precision=self.encoder.precision, pdl=pdl)  # fmt: skip
        return out if count is None else Rows(out, count, pdl)

    def layer_norm(self, name: str, rows: Any) -> Any:
        """Layer norm of rows with a head's parameters; rows as in `linear`."""
        values, count, pdl = _values(rows)
        out = torch.empty_like(values)
        with self._turns.current():
            layer_norm(out, values, *self.encoder.norms[name], eps=LAYER_NORM_EPS, num_tokens=count, pdl=pdl)
        return out if count is None else Rows(out, count, pdl)

    def to_numpy(self, rows: torch.Tensor) -> npt.NDArray[np.float32]:
        """A tensor as float32 array, by way of pinned memory; waits for the caller's stream."""
        pinned = self._turns.to_host(rows)
        self._turns.wait()
        # A copy, so that an array that its caller keeps pins no memory.
        array: npt.NDArray[np.float32] = pinned.to(torch.float32, copy=True).numpy()
        return array

    def linear_parts(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """Copies on the host of a linear layer's tensors, as `distilrt.checkpoint.packing` names and stores them."""
        weight, bias = self.encoder.linears[name]
        if isinstance(weight, Quantized):
            parts = {"codes": weight.codes, "column_scales": weight.scales, "input_scales": weight.input_scales}
        else:
            parts = {"weight": weight}
        return {part: stored_numbers(each.cpu()) for part, each in {**parts, "bias": bias}.items() if each is not None}

    def describe(self) -> dict[str, Any]:
        """Device, bytes of weights, workspace and graphs, and the ladder of buckets; of float8 and int8, how they were
        calibrated and which linear layers are kept in bfloat16."""
        encoder = self.encoder
        return {
            "backend": self.name,
            "dtype": self.dtype,
            **self.packing.describe(),
            "float32_products": encoder.precision if self.dtype == "float32" else None,
            "device": torch.cuda.get_device_name(self._device) if self._turns.on_gpu else "Triton's interpreter",
            "weight_bytes": encoder.weight_bytes,
            "workspace_bytes": encoder.workspace.nbytes,
            "graph_bytes": 0 if self._graphs is None else self._graphs.nbytes,
            "bucket_tokens": [bucket.tokens for bucket in encoder.buckets],
        }

    def _free(self, error: BaseException) -> None:
        """Give back what a load took that failed with `error`, whose frames hold on to it."""
        traceback.clear_frames(error.__traceback__)
        vars(self).clear()
        torch.cuda.empty_cache()

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self._torch_dtype, device=self._device)


def _copy_layer(out: torch.Tensor, index: int, rows: torch.Tensor) -> None:
    out[index].copy_(rows[: out.shape[1]])


def _values(rows: Any) -> tuple[torch.Tensor, torch.Tensor | None, bool]:
    return (rows.values, rows.num_tokens, rows.pdl) if isinstance(rows, Rows) else (rows, None, False)
