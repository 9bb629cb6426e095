"""Several ONNX graphs, one file of weights: a weight that graphs have in common is stored and mapped once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx

WEIGHTS = "weights.bin"
SHARED_FROM = 1024  # bytes; smaller weights stay in their graph
ALIGNED = 64  # a weight's offset in the file is a multiple of it, as vector instructions like


def write_shared(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Writes graphs as NAME.onnx, with their weights in weights.bin.

    Args:
        graphs: The graphs by name; they are changed.
        folder: An existing folder.
    """
    places: dict[bytes, tuple[int, int]] = {}  # by digest of the content: offset and length
    with open(folder / WEIGHTS, "wb") as file:
        for name, graph in graphs.items():
            for tensor in graph.graph.initializer:
                content = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) < SHARED_FROM:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNED))
                    places[digest] = (file.tell(), len(content))
                    file.write(content)
                _point(tensor, *places[digest])
            del graph.graph.value_info[:]  # ONNX Runtime infers the shapes itself
            for node in graph.graph.node:  # where in the Python code it came from: most of a graph's size
                del node.metadata_props[:]
                node.ClearField("doc_string")
            onnx.save(graph, folder / f"{name}.onnx")


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    """Replaces a tensor's content with its place in weights.bin."""
    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
