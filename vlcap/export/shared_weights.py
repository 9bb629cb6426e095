"""Several ONNX graphs, one file of weights: a weight that graphs have in common is stored once.

A captioner folder in float16 can hold its own graphs. Their weights are then those of model.safetensors, which is a
plain array of numbers after a header: a graph names the place of each weight in it. ONNX Runtime restores float32 when
it loads the graph, as PyTorch does.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WEIGHTS, SAFETENSORS = "weights.bin", "model.safetensors"
SHARED_FROM = 1024  # bytes; smaller weights stay in their graph
ALIGNED = 64  # a weight's offset in weights.bin is a multiple of it, as vector instructions like


class Place(NamedTuple):
    """Where a weight is stored: a file beside the graph, offset and length in bytes."""

    file: str
    offset: int
    length: int


def write_shared(graphs: Mapping[str, onnx.ModelProto], folder: Path, with_safetensors: bool = False) -> None:
    """Writes graphs as NAME.onnx, with their weights in weights.bin.

    Args:
        graphs: The graphs by name; they are changed.
        folder: An existing folder.
        with_safetensors: Whether weights that the folder's model.safetensors has in float16 are read from there.
    """
    saved = _half_weights(folder / SAFETENSORS) if with_safetensors else {}
    places: dict[bytes, Place] = {}  # by digest of the content
    path = folder / WEIGHTS
    with open(path, "wb") as file:
        for name, model in graphs.items():
            graph = model.graph
            _take_from(saved, graph)
            for tensor in graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    continue
                content = numpy_helper.to_array(tensor).tobytes()
                if len(content) < SHARED_FROM:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % ALIGNED))
                    places[digest] = Place(WEIGHTS, file.tell(), len(content))
                    file.write(content)
                _point(tensor, places[digest])
            del graph.value_info[:]  # ONNX Runtime infers the shapes itself
            for node in graph.node:  # where in the Python code it came from: most of a graph's size
                del node.metadata_props[:]
                node.ClearField("doc_string")
            onnx.save(model, folder / f"{name}.onnx")
    if not places:
        path.unlink()


def _half_weights(path: Path) -> dict[bytes, Place]:
    """The float16 weights of a safetensors file, by digest of their content."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    places = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F16":
            first, last = (start + offset for offset in entry["data_offsets"])
            places[hashlib.sha256(data[first:last]).digest()] = Place(path.name, first, last - first)
    return places


def _take_from(saved: Mapping[bytes, Place], graph: onnx.GraphProto) -> None:
    """Replaces weights by saved ones of the same numbers, cast to float32, and transposed where the graph wants it."""
    restored = []
    for tensor in list(graph.initializer) if saved else []:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < SHARED_FROM or not (found := _find(saved, values)):
            continue
        place, order = found
        half = TensorProto(name=f"{tensor.name}.half", data_type=TensorProto.FLOAT16)
        half.dims.extend(values.shape[axis] for axis in order)
        _point(half, place)
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        restored.append(helper.make_node("Cast", [half.name], [f"{tensor.name}.whole"], to=TensorProto.FLOAT))
        back = [order.index(axis) for axis in range(values.ndim)]
        restored.append(helper.make_node("Transpose", [f"{tensor.name}.whole"], [tensor.name], perm=back))
    nodes = [*restored, *graph.node]  # the restored weights come before their first use
    del graph.node[:]
    graph.node.extend(nodes)


def _find(saved: Mapping[bytes, Place], values: NDArray) -> tuple[Place, tuple[int, ...]] | None:
    """The saved weight with these numbers, and the order in which its dimensions are stored."""
    half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), values):
        return None
    for order in permutations(range(values.ndim)):
        digest = hashlib.sha256(np.ascontiguousarray(half.transpose(order)).tobytes()).digest()
        if digest in saved:
            return saved[digest], order
    return None


def _point(tensor: TensorProto, place: Place) -> None:
    """Replaces a tensor's content with its place in a file."""
    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
