"""The encoder on a GPU: weights, one workspace, and the kernel launches of a layer in their order.

Buffers of a bucket lie at fixed addresses of the workspace, so that its launches can be captured in a graph and
replayed with other contents. A launch allocates nothing and waits for nothing. What goes into the buffers, and what is
done with the rows that come out, is the business of `distilrt.backends.cuda.backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distilrt.backends.cuda.graphs import Bucket, ladder, top_tokens, within
from distilrt.backends.cuda.workspace import Array, Place, Workspace, lay_out
from distilrt.checkpoint.packing import PackedWeights
from distilrt.kernels import tiles
from distilrt.kernels.attention import BLOCK_FIELDS, attention, max_query_blocks
from distilrt.kernels.embedding import embed
from distilrt.kernels.launch import chip_of, product_name
from distilrt.kernels.layer_norm import layer_norm
from distilrt.kernels.linear import linear
from distilrt.kernels.narrow_linear import norm_linear
from distilrt.kernels.persistent_linear import Relay
from distilrt.kernels.quantize import Factor, Quantized, pointers, quantize
from distilrt.kernels.row_attention import row_attention
from distilrt.kernels.whole_encoder import Scratch, table, whole_encoder
from distilrt.model.architecture import POSITIONS, WORDS
from distilrt.model.config import LAYER_NORM_EPS, DistilBertConfig

# The integers of a bucket, in the order in which they lie in its workspace.
INTEGERS = ("cu_seqlens", "key_lengths", "wanted", "query_blocks", "input_ids", "position_ids", "index")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of which only the device knows how many are real."""

    values: torch.Tensor  # [most, width]
    num_tokens: torch.Tensor  # [1] int32: the first so many
    pdl: bool = False  # whether a kernel wrote them, so that the next kernel may start before it ends


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a layer behind its QKV product computes: on all rows of a bucket, or in the last layer on the wanted ones.

    The wanted ones use the first rows of what lies there for all.
    """

    num_rows: torch.Tensor  # [1] int32: how many rows are real
    hidden: torch.Tensor  # [rows, hidden_size]: the hidden states, before and after the layer
    context: torch.Tensor  # [rows, hidden_size]: of the attention, then its normalised sum with the hidden states
    product: torch.Tensor  # [rows, hidden_size]: of the output projection and of the second FFN layer
    partials: torch.Tensor  # [parts, rows, hidden_size] float32: the same, still to be summed and normalised
    ffn: torch.Tensor  # [rows, intermediate_size]
    relay: Relay  # where its products leave shared sums
    codes: dict[int, Quantized]  # by width: [rows, hidden_size] or [rows, intermediate_size]; only one is in use


@dataclass(frozen=True, slots=True)
class Buffers:
    """Views of the workspace for one bucket. `block` is all integers in one piece, in the order of the fields."""

    block: torch.Tensor  # [n] int32
    cu_seqlens: torch.Tensor  # [seqs + 1]; entries after the last sequence repeat the total
    key_lengths: torch.Tensor  # [seqs]
    wanted: torch.Tensor  # [seqs + 1]: wanted rows, of a batch packed here those of padded position 0; how many
    query_blocks: torch.Tensor  # [blocks + 1, 4]: as `attention` reads them
    input_ids: torch.Tensor  # [tokens]
    position_ids: torch.Tensor  # [tokens]
    index: torch.Tensor  # [tokens]: wanted rows that are too many for `wanted`; padded positions of a batch packed here
    num_tokens: torch.Tensor  # [1], the total in cu_seqlens
    block_rows: int  # queries of a block
    qkv: torch.Tensor  # [tokens, 3 * hidden_size]
    all: Stage
    few: Stage  # of at most as many rows as a bucket has sequences


class DeviceEncoder:
    """Weights and workspace of one model on one device.

    Matrices and tables are in the packing's dtype; vectors (biases, gains) stay float32, for they cost nothing. With
    "float8" or "int8" the weights of the encoder's linear layers and the rows that they multiply are in that, and all
    else is bfloat16.

    Args:
        config: the model's shape.
        weights: packed for backend "cuda".
        device: a CUDA device; or the CPU while Triton interprets.
        limit: bytes of workspace; None: what the ladder needs.
        precision: of float32 products, one of `distilrt.kernels.launch.PRECISIONS`; None: what suits the chip
            (`distilrt.kernels.tiles.float32_precision`).

    Raises:
        BackendError: `limit` is less than one long sequence needs.
        torch.OutOfMemoryError: the device has too little free memory.
    """

    def __init__(
        self,
        config: DistilBertConfig,
        weights: PackedWeights,
        device: torch.device,
        limit: int | None = None,
        precision: str | None = None,
    ) -> None:
        self._config, self._device = config, device
        dtype = weights.dtype
        self.row_dtype = weights.packing.float_dtype
        self._codes = tiles.CODES.get(dtype)  # torch's name of the dtype of codes; None: there are none
        self.chip = chip_of(torch.empty(0, device=device))
        self.precision = (precision or tiles.float32_precision(self.chip)) if dtype == "float32" else "ieee"
        # What `tiles` calls products of rows as they are, and of those that weights in `dtype` take.
        self._products = product_name(getattr(torch, self.row_dtype), self.precision)
        self._kinds = (self._products, dtype if dtype in tiles.CODES else self._products)
        self._load(weights)
        self.pdl = device.type == "cuda" and self.chip.capability >= 90
        longest = config.max_position_embeddings
        top = top_tokens(self.chip.num_sms, config.hidden_size, longest)
        self.buckets = within(ladder(top), lambda bucket: lay_out(self._places(bucket)).nbytes, limit, longest)
        # Every bucket has its own layout of the same bytes: only one is in use at a time.
        layouts = {bucket: lay_out(self._places(bucket)) for bucket in self.buckets}
        self.workspace = Workspace(max(layout.nbytes for layout in layouts.values()), device)
        begun = torch.zeros(self.chip.num_sms, dtype=torch.int32, device=device)
        self.buffers = {
            bucket: _buffers(self.workspace.views(layout), self._block_rows(bucket), begun)
            for bucket, layout in layouts.items()
        }

    def _load(self, weights: PackedWeights) -> None:
        """Copy all tensors to the device as they are."""
        config, put = self._config, self._put
        self._words, self._positions = put(*weights.raw(WORDS)), put(*weights.raw(POSITIONS))
        self.linears: dict[str, tuple[Factor, torch.Tensor]] = {}
        for name in weights.linears:
            parts = {part: put(*stored) for part, stored in weights.parts(name).items()}
            weight: Factor = parts.get("weight", self._words)  # a tied projection has none
            if "codes" in parts:
                weight = Quantized(parts["codes"], parts["column_scales"], parts.get("input_scales"))
            self.linears[name] = (weight, parts["bias"])
        self.norms = {
            name: (put(*weights.raw(f"{name}.weight")), put(*weights.raw(f"{name}.bias")))
            for name in (name.removesuffix(".weight") for name in weights)
            if name.endswith(("LayerNorm", "layer_norm"))
        }
        names = [(f"layer.{i}", f"transformer.layer.{i}") for i in range(config.num_layers if not self._codes else 0)]
        products: Any = self.linears  # `whole_encoder` has no form for codes, and then no layers
        self._layers = table(self.norms["embeddings.LayerNorm"], [
            (products[f"{name}.qkv"], products[f"{name}.out_proj"], self.norms[f"{source}.sa_layer_norm"],
             products[f"{name}.ffn_in"], products[f"{name}.ffn_out"], self.norms[f"{source}.output_layer_norm"])
            for name, source in names
        ])  # fmt: skip
        self._barrier = torch.zeros(1, dtype=torch.int32, device=self._device)
        held: list[torch.Tensor | None] = [self._words, self._positions]
        for matrix_or_gain, vector in (*self.linears.values(), *self.norms.values()):
            held += *pointers(matrix_or_gain), vector
        self.weight_bytes = sum({each.data_ptr(): each.nbytes for each in held if each is not None}.values())

    def _put(self, dtype: str, numbers: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device of numbers as packed files have them."""
        named: torch.dtype = getattr(torch, tiles.CODES.get(dtype, dtype))
        if dtype == "bfloat16":  # integers, which torch knows only with a sign
            numbers = numbers.view(np.int16)
        return torch.tensor(numbers, device="cpu").to(self._device).view(named)

    def _splits(self, rows: int, k: int, products: str) -> int:
        return tiles.split_k(rows, self._config.hidden_size, k, products, self.chip)

    def _narrow(self, rows: int) -> bool:
        return tiles.is_narrow(rows, self._products)

    def _parts(self, rows: int) -> int:
        """Partial sums that a product `hidden_size` wide needs, at most."""
        depths = (self._config.hidden_size, self._config.intermediate_size)
        splits = max(self._splits(rows, k, products) for k in depths for products in self._kinds)
        return splits if splits > 1 or self._narrow(rows) else 0

    def _relayed(self, rows: int) -> int:
        """Sums that a product of so many rows may leave from one program to the next, at most."""
        width, inner = self._config.hidden_size, self._config.intermediate_size
        most = 0
        for products in self._kinds:
            shapes = [(3 * width, width, 1), (inner, width, 1)]
            shapes += [(width, k, self._splits(rows, k, products)) for k in (width, inner)]
            most = max(most, *(tiles.relayed(rows, n, k, products, self.chip, parts) for n, k, parts in shapes))
        return most

    def _block_rows(self, bucket: Bucket) -> int:
        """Queries of a block of `attention`. A sequence may be as long as the bucket, for with position_ids it can be
        longer than the model has positions."""
        tile = tiles.attention_tile(bucket.tokens, self._config.head_dim, self._products, self.chip)
        return tile.block_m

    def _places(self, bucket: Bucket) -> list[Place]:
        config, dtype, tokens, seqs = self._config, self.row_dtype, bucket.tokens, bucket.seqs
        blocks = max_query_blocks(tokens, seqs, self._block_rows(bucket))
        codes, coded = self._codes or "int8", tokens if self._codes else 0
        return [
            Array("cu_seqlens", (seqs + 1,), "int32"),
            Array("key_lengths", (seqs,), "int32"),
            Array("wanted", (seqs + 1,), "int32"),
            Array("query_blocks", (blocks + 1, BLOCK_FIELDS), "int32"),
            Array("input_ids", (tokens,), "int32"),
            Array("position_ids", (tokens,), "int32"),
            Array("index", (tokens,), "int32"),
            Array("hidden", (tokens, config.hidden_size), dtype),
            Array("few_hidden", (seqs, config.hidden_size), dtype),
            Array("context", (tokens, config.hidden_size), dtype),
            (
                Array("product", (tokens, config.hidden_size), dtype),
                Array("partials", (self._parts(tokens), tokens, config.hidden_size), "float32"),
                Array("few_partials", (self._parts(seqs), seqs, config.hidden_size), "float32"),
            ),
            (
                Array("qkv", (tokens, 3 * config.hidden_size), dtype),
                Array("ffn", (tokens, config.intermediate_size), dtype),
            ),
            (
                Array("codes", (coded, config.hidden_size), codes),
                Array("ffn_codes", (coded, config.intermediate_size), codes),
            ),
            Array("code_scales", (coded,), "float32"),
            Array("relayed", (max(self._relayed(tokens), self._relayed(seqs)),), "float32"),
        ]

    def launch(
        self,
        bucket: Bucket,
        *,
        few: bool = False,
        embeds: torch.Tensor | None = None,
        visit: Callable[[int, torch.Tensor], None] | None = None,
    ) -> Stage:
        """Enqueue the whole encoder over a bucket's buffers, from the integers in them to the last layer's `hidden`.

        Args:
            bucket: one of `buckets`.
            few: finish the rows `wanted` alone. Of these the last layer's QKV product still makes all rows: queries of
                the others cost a twelfth of a layer, a product of their own two more launches.
            embeds: `[tokens, hidden_size]` in place of the words of `input_ids`.
            visit: called with 0 and the embedding output, then with 1, 2, … and each layer's, to enqueue a copy; not
                with `few`.

        Returns:
            The stage that has the result.
        """
        b, config = self.buffers[bucket], self._config
        common: dict[str, Any] = {"num_tokens": b.num_tokens, "pdl": self.pdl}
        stage, last = b.all, config.num_layers - 1
        tokens = b.input_ids if embeds is None else embeds
        sizes = (config.hidden_size, config.intermediate_size)
        if visit is None and (tile := tiles.encoder_tile(bucket.tokens, *sizes, self._kinds[1], self.chip)):
            return self._launch_whole(b, few, tokens, tile)
        codes = self._codes_for(stage, "layer.0.qkv")
        embed(stage.hidden, tokens, b.position_ids, self._words, self._positions, *self.norms["embeddings.LayerNorm"],
              eps=LAYER_NORM_EPS, codes=codes, **common)  # fmt: skip
        product: dict[str, Any] = {"precision": self.precision, "relay": stage.relay, **common}
        linear(b.qkv, codes or stage.hidden, *self.linears["layer.0.qkv"], **product)
        if visit is not None:
            visit(0, stage.hidden)
        for i in range(config.num_layers):
            name, source = f"layer.{i}", f"transformer.layer.{i}"
            # Its form may depend on the bucket, never on the sequences in it: batch mates must not matter. What `visit`
            # enqueued may be a copy, on which no kernel can depend early.
            if few and i == last:
                stage = b.few
                row_attention(stage.context, stage.hidden, b.qkv, b.all.hidden, b.wanted, b.cu_seqlens, b.key_lengths,
                              config.num_heads, max_seqlen=bucket.tokens, pdl=self.pdl)  # fmt: skip
            else:
                attention(stage.context, b.qkv, b.query_blocks, config.num_heads, max_seqlen=bucket.tokens,
                          precision=self.precision, pdl=self.pdl and visit is None)  # fmt: skip
            # The context is no longer needed when the normalised sum takes its place.
            self._add_and_feed(stage, stage.context, f"{name}.out_proj", stage.hidden, f"{source}.sa_layer_norm",
                               stage.context, f"{name}.ffn_in", stage.ffn, config.activation)  # fmt: skip
            self._add_and_feed(stage, stage.ffn, f"{name}.ffn_out", stage.context, f"{source}.output_layer_norm",
                               stage.hidden, None if i == last else f"layer.{i + 1}.qkv", b.qkv, "")  # fmt: skip
            if visit is not None:
                visit(i + 1, stage.hidden)
        return stage

    def _launch_whole(self, b: Buffers, few: bool, tokens: torch.Tensor, tile: tiles.EncoderTile) -> Stage:
        """The same in one kernel."""
        config, every, stage = self._config, b.all, b.few if few else b.all
        scratch = Scratch(every.hidden, b.qkv, every.context, every.partials[0], every.ffn, self._barrier)
        whole_encoder(stage.hidden, scratch, self._layers, tokens, b.position_ids, self._words, self._positions,
                      b.query_blocks, config.num_heads, tile=tile, activation=config.activation, eps=LAYER_NORM_EPS,
                      num_tokens=b.num_tokens, wanted=b.wanted if few else None, pdl=self.pdl)  # fmt: skip
        return stage

    def _codes_for(self, stage: Stage, name: str | None) -> Quantized | None:
        """Where the codes go that a linear layer multiplies; None where it takes rows as they are."""
        weight = None if name is None else self.linears[name][0]
        if not isinstance(weight, Quantized) or self._narrow(len(stage.hidden)):
            return None
        return replace(stage.codes[weight.codes.shape[1]], input_scales=weight.input_scales)

    def _add_and_feed(
        self,
        stage: Stage,
        x: torch.Tensor,
        name: str,
        residual: torch.Tensor,
        norm_name: str,
        normed: torch.Tensor,
        next_name: str | None,
        out: torch.Tensor,
        activation: str,
    ) -> None:
        """`normed = LayerNorm(linear(x) + residual)` and `out = activation(next linear(normed))`, if there is a next.

        Few rows: the next product normalises its input itself, which saves a kernel. Not many: the first product comes
        in parts, where the chip would else be idle, and the layer norm adds them up. Bias and sum stay float32 before
        the layer norm in all forms but the residual's own dtype.
        """
        common: dict[str, Any] = {"num_tokens": stage.num_rows, "pdl": self.pdl}
        product: dict[str, Any] = {"precision": self.precision, "relay": stage.relay, **common}
        (weight, bias), norm = self.linears[name], self.norms[norm_name]
        rows, partials = len(stage.hidden), stage.partials
        if next_name is not None and self._narrow(rows):
            linear(partials[0], x, weight, bias, residual, **common)
            norm_linear(out, normed, partials[0], *norm, *self.linears[next_name], eps=LAYER_NORM_EPS,
                        activation=activation, **common)  # fmt: skip
            return
        splits = self._splits(rows, x.shape[1], self._kinds[isinstance(weight, Quantized)])
        factor: Factor = x
        if (coded := self._codes_for(stage, name)) is not None:
            quantize(coded, x, **common)
            factor = coded
        codes = self._codes_for(stage, next_name)
        added: dict[str, Any] = {"eps": LAYER_NORM_EPS, "codes": codes, **common}
        sums = partials[:splits] if splits > 1 else stage.product
        linear(sums, factor, weight, **product)
        layer_norm(normed, sums, *norm, residual, bias, **added)
        if next_name is not None:
            linear(out, codes or normed, *self.linears[next_name], activation=activation, **product)


def _buffers(views: Mapping[str, torch.Tensor], block_rows: int, begun: torch.Tensor) -> Buffers:
    integers = {name: views[name] for name in INTEGERS}
    first, last = views[INTEGERS[0]], views[INTEGERS[-1]]
    size = last.storage_offset() + last.numel() - first.storage_offset()
    num_tokens, count, most = first[-1:], views["wanted"][-1:], len(views["few_hidden"])
    context, product, ffn = (views[name] for name in ("context", "product", "ffn"))
    relay = Relay(begun, views["relayed"])
    codes = {each.shape[1]: Quantized(each, views["code_scales"]) for each in (views["codes"], views["ffn_codes"])}
    few = {width: Quantized(each.codes[:most], each.scales[:most]) for width, each in codes.items()}
    return Buffers(
        block=first.as_strided((size,), (1,)), **integers, num_tokens=num_tokens, block_rows=block_rows,
        qkv=views["qkv"],
        all=Stage(num_tokens, views["hidden"], context, product, views["partials"], ffn, relay, codes),
        few=Stage(count, views["few_hidden"], context[:most], product[:most], views["few_partials"], ffn[:most], relay,
                  few),
    )  # fmt: skip
