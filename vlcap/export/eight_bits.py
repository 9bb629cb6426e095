"""ONNX graphs whose linear layers compute in 8 bits (ONNX Runtime's dynamic quantization).

Weights have a scale for each output channel. Inputs are rounded at each call, with one scale for the whole batch, so a
caption can depend slightly on the other photos of its batch. Convolutions and embeddings stay in float32.
"""

import logging
from pathlib import Path

import onnx


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
    return onnx.load(path)
