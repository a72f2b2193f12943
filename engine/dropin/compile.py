"""`torch.compile(model, backend="distilrt")`: DistilBERTs by this engine, everything else by inductor.

torch finds `compile_graph` by the entry point `torch_dynamo_backends`. In a captured graph every encoder that
`distilrt.dropin.graph_match` finds becomes one operator, together with its head if that is one of DistilBERT's.
Pooling, losses and whatever else the program does stay in the graph, which inductor compiles. Numbers at masked
positions are the reference's here, not 0, since nobody knows what the rest of the program makes of them.
"""

from __future__ import annotations

import operator
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule, Node

from distilrt import env
from distilrt.backends import base as backends
from distilrt.batch import PaddedInputs, pack_padded
from distilrt.dropin import ops
from distilrt.dropin.graph_match import FoundEncoder, FoundHead, encoders, head_behind, takes_first
from distilrt.dropin.graph_nodes import method_of
from distilrt.dropin.watch import Watch
from distilrt.errors import InvalidInput
from distilrt.model.config import DistilBertConfig
from distilrt.model.heads import ENCODER, Head

_IN_PLACE = {operator.setitem, operator.iadd, operator.isub, operator.imul, operator.imatmul, operator.itruediv,
             operator.ifloordiv, operator.imod, operator.ipow, operator.iand, operator.ior, operator.ixor}  # fmt: skip
_ADVICE = "call the model under torch.inference_mode() or torch.no_grad()"


def compile_graph(
    module: GraphModule, inputs: Sequence[Any], *, mode: str | None = None, options: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """A backend of torch.compile.

    Args:
        module: the captured graph.
        inputs: examples of its arguments, parameters among them.
        mode, options: inductor's, as for `torch.compile(…, backend="inductor")`.

    Returns:
        The compiled program. It watches the parameters, see `distilrt.dropin.watch`, and packs them anew when they
        change.
    """
    patches = {**(torch._inductor.list_mode_options(mode) if mode else {}), **(options or {})}
    rewritten, packed = _rewritten(module, inputs)
    compiled: Callable[..., Any] = torch._inductor.compile(rewritten, list(inputs), options=patches)
    if not packed:
        return compiled

    def run(*arguments: Any) -> Any:
        try:
            for encoder in packed:
                encoder.refresh(arguments)
            return compiled(*arguments)
        except InvalidInput:  # what only the reference defines, such as a row that is masked altogether
            return module(*arguments)

    return run


def _rewritten(module: GraphModule, inputs: Sequence[Any]) -> tuple[GraphModule, list[_PackedEncoder]]:
    """The graph with each encoder as one operator, and what computes them; the module itself where there is none."""
    if any(_writes(node) for node in module.graph.nodes):
        return module, []  # could not be run again after an error in the middle
    if torch.is_autocast_enabled("cpu") or not any(True for _ in encoders(module.graph)):
        return module, []
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        warnings.warn(f"torch.compile(backend='distilrt') leaves this DistilBERT to inductor, since gradients are on; "
                      f"{_ADVICE}", stacklevel=2)  # fmt: skip
        return module, []
    if any(tensor.is_inference() for tensor in tensors if isinstance(tensor, torch.nn.Parameter)):
        warnings.warn("torch.compile(backend='distilrt') leaves this DistilBERT to inductor, since its parameters were "
                      "made under torch.inference_mode(), and changes to such can't be seen; load the model outside of "
                      "it", stacklevel=2)  # fmt: skip
        return module, []
    graph = torch.fx.Graph()
    copies: dict[Node, Node] = {}
    graph.output(graph.graph_copy(module.graph, copies))
    places = {node: i for i, node in enumerate(node for node in graph.nodes if node.op == "placeholder")}
    packed = []
    for found in encoders(graph):
        head = head_behind(found)
        weights = found.weights | (head.weights if head else {})
        encoder = _PackedEncoder(
            found.config, {name: places[node] for name, node in weights.items()}, head.head if head else ENCODER
        )
        if _replace(graph, found, head, ops.register(encoder)):
            packed.append(encoder)
    graph.eliminate_dead_code()
    return (GraphModule(module, graph), packed) if packed else (module, [])


def _writes(node: Node) -> bool:
    """Whether a node changes one of its arguments in place."""
    method = method_of(node)
    if method.endswith("_") and not method.endswith("__"):
        return True
    return node.target in _IN_PLACE or bool(node.kwargs.get("inplace")) or "out" in node.kwargs


def _replace(graph: torch.fx.Graph, found: FoundEncoder, head: FoundHead | None, number: int) -> bool:
    """Put one operator in place of an encoder and its head, unless the program reads something in the middle of it."""
    states = {alias: i for i, aliases in enumerate(found.states) for alias in aliases}
    own = found.inner | set(states)
    if any(user not in own for node in found.inner for user in node.users):
        return False
    readers = [(node, index, user) for node, index in states.items() for user in list(node.users) if user not in own]
    all_states = any(index < len(found.states) - 1 for _, index, _ in readers)
    first_only = not all_states and all(takes_first(user, [node]) for node, _, user in readers)
    width = head.width if head else found.config.hidden_size
    rows = ("batch_size", width) if first_only else ("batch_size", "seq_len", width)
    outputs = range(len(found.states)) if all_states else ["first" if first_only else "last"]
    operands = ops.operands(number, found.inputs, {str(name): rows for name in outputs})
    with graph.inserting_after(found.states[-1][0]):
        call = graph.call_function(torch.ops.distilrt.compute.default, operands)
    with graph.inserting_after(call):
        computed = [graph.call_function(operator.getitem, (call, i)) for i in range(len(outputs))]
    if head:
        head.scores.replace_all_uses_with(computed[0])
        return True
    for node, index, user in readers:
        if first_only:
            user.replace_all_uses_with(computed[0])
        else:
            user.replace_input_with(node, computed[index if all_states else 0])
    return True


class _PackedEncoder:
    """The engine's encoder of some parameters, as they are now, and its head. Safe to call from many threads."""

    def __init__(self, config: DistilBertConfig, places: dict[str, int], head: Head) -> None:
        self._config = config
        self._names, self._places = list(places), list(places.values())
        self._head = head
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._backend: backends.Backend | None = None

    def refresh(self, arguments: Sequence[Any]) -> None:
        """Pack the parameters among a program's arguments, unless they are those that were packed last."""
        tensors = [arguments[place] for place in self._places]
        if self._watch is not None and not self._watch.changed(tensors):
            return
        with self._lock:
            watch = Watch(tensors, self._names)
            weights = {name: tensor.detach().numpy() for name, tensor in zip(self._names, tensors, strict=True)}
            weights.setdefault("embeddings.word_embeddings.weight", np.zeros((1, self._config.hidden_size), np.float32))
            self._backend = backends.create(
                env.backend() or "cpu", self._config, weights, dtype="float32", head=self._head
            )
            self._watch = watch

    def compute(self, tensors: dict[str, torch.Tensor], outputs: list[str]) -> list[torch.Tensor]:
        """Hidden states, or what the head makes of them, at masked positions too; for `ops.compute`.

        Args:
            tensors: `PaddedInputs` by name; positions may be `[1, seq_len]`.
            outputs: `["first"]`: of position 0; `["last"]`: of all positions; else as many as there are states: these.

        Raises:
            InvalidInput: a row of the mask has no 1.
        """
        inputs = PaddedInputs(**{name: tensor.numpy() for name, tensor in tensors.items()})
        first_only, all_layers = outputs == ["first"], len(outputs) > 1
        batch, layout = pack_padded(self._config, inputs, keep_first=first_only, keep_masked=not first_only)
        if not batch.key_lengths.all():  # a bool mask gives zeros then, an additive one something else
            raise InvalidInput("a row of the mask has no 1")
        assert self._backend is not None
        assert self._watch is not None
        started = time.perf_counter()
        rows: Any = self._backend.forward(batch, all_layers, layout.first_rows if first_only else None)
        rows = self._backend.to_numpy(self._head.compute(self._backend, rows))
        self._watch.computed(time.perf_counter() - started)
        if first_only:
            return [torch.from_numpy(rows)]
        return [torch.from_numpy(layout.unpack(state, masked=True)) for state in (rows if all_layers else [rows])]
