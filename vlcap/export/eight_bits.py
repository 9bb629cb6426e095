"""ONNX graphs with 8-bit weights, in two ways.

- `store_in_eight_bits`: weights are stored in 8 bits, with a scale for each output channel or piece. ONNX Runtime
  restores the floats when it loads the graph. A quarter of the size; the same speed; captions hardly change, and none
  depends on the other photos of its batch.
- `compute_in_eight_bits`: linear layers also compute in 8 bits, and round their inputs at each call (ONNX Runtime's
  dynamic quantization). Faster for large models and on CPUs with 8-bit dot products. Convolutions and embeddings are
  stored only.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

WEIGHTS = {"Conv": 1, "Gather": 0, "MatMul": 1, "Gemm": 1}  # operations, and the place of the weights in their inputs
FROM = 4096  # numbers; smaller weights stay as they are
# A convolution with fewer weights keeps 16 bits. Such layers are the narrow ones of a trunk, whose rounding does most
# harm, and they are cheap: on the bundled encoder the tokens' relative error falls from 3.9 to 1.8 % for 1.6 MB.
HALF_BELOW = 160_000


def compute_in_eight_bits(path: Path) -> onnx.ModelProto:
    """The graph in a file, with linear layers in 8-bit arithmetic."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it recommends a preparation that changes nothing here
    try:
        # 7 of the 8 bits: on some CPUs, sums of 8-bit products overflow.
        quantize_dynamic(
            path,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
    return store_in_eight_bits(onnx.load(path))


def store_in_eight_bits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with 8-bit weights, each followed by a cast and a product with its scales. `model` is changed."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, int] = {}  # by weight: the dimension that has a scale for each of its places
    for node in graph.node:
        if node.op_type in WEIGHTS and (name := node.input[WEIGHTS[node.op_type]]) in weights:
            axes.setdefault(name, _output_axis(node, len(weights[name].dims)))
    narrow = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    restored = []
    for name, axis in axes.items():
        values = numpy_helper.to_array(weights[name])
        if values.dtype != np.float32 or values.size < FROM:
            continue
        if name in narrow and values.size < HALF_BELOW:
            graph.initializer.remove(weights[name])
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            restored.append(helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
            continue
        others = tuple(each for each in range(values.ndim) if each != axis)
        scales = np.maximum(np.abs(values).max(axis=others, keepdims=True) / 127, 1e-12).astype(np.float32)
        rounded = np.round(values / scales).astype(np.int8)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [numpy_helper.from_array(rounded, f"{name}.int8"), numpy_helper.from_array(scales, f"{name}.scale")]
        )
        restored += [
            helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
        ]
    nodes = [*restored, *graph.node]  # the restored weights come before their first use
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _output_axis(node: onnx.NodeProto, dims: int) -> int:
    """The dimension of an operation's weights that numbers its outputs."""
    if node.op_type == "MatMul":
        return dims - 1
    if node.op_type == "Gemm":
        return 0 if any(each.name == "transB" and each.i for each in node.attribute) else 1
    return 0  # output channels of a convolution, pieces of an embedding
