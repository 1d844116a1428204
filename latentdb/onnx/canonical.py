"""An ONNX graph in one form, however often and under whichever names it was exported.

Exporters name tensors after layers, of which Keras counts those of a process, and sort by
these names.  The fingerprint of a model covers the graph, so it needs a form of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

INPUT = "input"


def canonicalize(graph: Any, outputs: Sequence[str]) -> None:
    """Order and name the nodes, weights and tensors of a graph of one input, in place.

    Parameters
    ----------
    graph
        A ``GraphProto``; what its outputs do not need is left out.
    outputs
        New names of its outputs.
    """
    from onnx import helper

    _simplify_reshapes(graph)
    form = _Form(graph)
    ends = [form.visit(value.name) for value in graph.output]
    ties = [
        helper.make_node("Identity", [end], [name]) for end, name in zip(ends, outputs, strict=True)
    ]
    for value in graph.input:
        value.name = form.names[value.name]
    for value, name in zip(graph.output, outputs, strict=True):
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(name, kind, None))
    for field, parts in (
        (graph.node, [*form.nodes, *ties]),
        (graph.initializer, form.weights),
        (graph.value_info, []),
    ):
        del field[:]
        field.extend(parts)


def _simplify_reshapes(graph: Any) -> None:
    """Reshape to a computed size and constants: to -1 and the constants, which is the same.

    Whether tf2onnx finds that itself depends on the order in which it sees the nodes.
    """
    from onnx import numpy_helper

    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        made = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        while made is not None and made.op_type == "Cast":
            made = makers.get(made.input[0])
        if made is None or made.op_type != "Concat" or made.input[0] in tensors:
            continue
        rest = [tensors[name] for name in made.input[1:] if name in tensors]
        sizes = [int(one) for part in rest for one in numpy_helper.to_array(part).ravel()]
        if len(rest) == len(made.input) - 1 and all(size > 0 for size in sizes):
            node.input[1] = f"{node.output[0]}/sizes"
            values = np.array([-1, *sizes], np.int64)
            graph.initializer.append(numpy_helper.from_array(values, node.input[1]))


class _Form:
    """The parts of a graph in the order in which its outputs need them, equal ones once."""

    def __init__(self, graph: Any) -> None:
        self._makers = {name: node for node in graph.node for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._known: dict[tuple[Any, ...], list[str]] = {}
        self._made = 0
        self.names = {value.name: INPUT for value in graph.input}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def visit(self, end: str) -> str:
        """The new name of a tensor, once all that it needs has one."""
        stack = [end]
        while stack:
            name = stack[-1]
            if name in self.names:
                stack.pop()
            elif name in self._tensors:
                self._add_weight(name)
            else:
                missing = [one for one in self._makers[name].input if one not in self.names]
                missing = [one for one in missing if one]
                if missing:
                    stack.append(missing[0])
                else:
                    self._add_node(self._makers[name])
        return self.names[end]

    def _add_weight(self, name: str) -> None:
        from onnx import numpy_helper

        tensor = self._tensors[name]
        values = numpy_helper.to_array(tensor)
        key = ("weight", tensor.data_type, values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = [f"w{len(self.weights)}"]
            self.weights.append(numpy_helper.from_array(values, self._known[key][0]))
        self.names[name] = self._known[key][0]

    def _add_node(self, node: Any) -> None:
        settings = sorted(node.attribute, key=lambda one: one.name)
        inputs = [self.names.get(name, "") for name in node.input]
        texts = [one.SerializeToString(deterministic=True) for one in settings]
        key = (node.op_type, node.domain, *inputs, *texts, len(node.output))
        if key not in self._known:
            made = [f"t{self._made + number}" for number in range(len(node.output))]
            self._made += len(made)
            fresh = type(node)(op_type=node.op_type, input=inputs, output=made, attribute=settings)
            if node.domain:
                fresh.domain = node.domain
            self.nodes.append(fresh)
            self._known[key] = made
        self.names.update(zip(node.output, self._known[key], strict=True))
