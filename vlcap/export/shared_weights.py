"""Several ONNX graphs, one file of weights: a weight that graphs have in common is stored once.

A captioner folder in float16 can hold its own graphs. Their weights are then those of model.safetensors, which is a
plain array of numbers after a header: a graph names the place of each weight in it. ONNX Runtime restores float32 when
it loads the graph, as PyTorch does. The exporter has multiplied convolutions by the scales of their batch norms; such a
graph keeps the scales, and ONNX Runtime multiplies.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
    saved = Saved.read(folder / SAFETENSORS) if with_safetensors else None
    places: dict[bytes, Place] = {}  # by digest of the content
    path = folder / WEIGHTS
    with open(path, "wb") as file:
        for name, model in graphs.items():
            graph = model.graph
            if saved:
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


@dataclass(frozen=True)
class Saved:
    """The float16 weights of a safetensors file: their places, by digest of their content and by name."""

    by_content: Mapping[bytes, Place]
    by_name: Mapping[str, tuple[Place, NDArray]]

    @classmethod
    def read(cls, path: Path) -> "Saved":
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        by_content, by_name = {}, {}
        for name, entry in json.loads(data[8:start]).items():
            if name != "__metadata__" and entry["dtype"] == "F16":
                first, last = (start + offset for offset in entry["data_offsets"])
                place = Place(path.name, first, last - first)
                by_content[hashlib.sha256(data[first:last]).digest()] = place
                by_name[name] = place, np.frombuffer(data[first:last], np.float16).reshape(entry["shape"])
        return cls(by_content, by_name)


def _take_from(saved: Saved, graph: onnx.GraphProto) -> None:
    """Replaces weights by saved ones, cast to float32, and transposed or scaled as the graph wants them."""
    restored = []
    for tensor in list(graph.initializer):
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.nbytes < SHARED_FROM:
            continue
        half = TensorProto(name=f"{name}.half", data_type=TensorProto.FLOAT16)
        cast = helper.make_node("Cast", [half.name], [f"{name}.whole"], to=TensorProto.FLOAT)
        if found := _transposed(saved, values):
            place, order = found
            half.dims.extend(values.shape[axis] for axis in order)
            back = [order.index(axis) for axis in range(values.ndim)]
            last = helper.make_node("Transpose", [f"{name}.whole"], [name], perm=back)
        elif scaled := _scaled(saved, name, values):
            place, scales = scaled
            half.dims.extend(values.shape)
            graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
            last = helper.make_node("Mul", [f"{name}.whole", f"{name}.scales"], [name])
        else:
            continue
        _point(half, place)
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
        restored += [cast, last]
    nodes = [*restored, *graph.node]  # the restored weights come before their first use
    del graph.node[:]
    graph.node.extend(nodes)


def _transposed(saved: Saved, values: NDArray) -> tuple[Place, tuple[int, ...]] | None:
    """The saved weight with these numbers, and the order in which its dimensions are stored."""
    half = values.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), values):
        return None
    for order in permutations(range(values.ndim)):
        digest = hashlib.sha256(np.ascontiguousarray(half.transpose(order)).tobytes()).digest()
        if digest in saved.by_content:
            return saved.by_content[digest], order
    return None


def _scaled(saved: Saved, name: str, values: NDArray) -> tuple[Place, NDArray] | None:
    """The saved weight of this name whose output channels were multiplied by scales, and the scales."""
    place, weight = saved.by_name.get(name, (None, None))
    if place is None or weight is None or weight.shape != values.shape:
        return None
    whole = weight.astype(np.float64)
    others = tuple(range(1, values.ndim))
    squares = (whole**2).sum(axis=others, keepdims=True)
    scales = ((whole * values).sum(axis=others, keepdims=True) / np.maximum(squares, 1e-300)).astype(np.float32)
    fits = np.allclose(weight.astype(np.float32) * scales, values, rtol=1e-6, atol=1e-9)
    return (place, scales) if fits else None


def _point(tensor: TensorProto, place: Place) -> None:
    """Replaces a tensor's content with its place in a file."""
    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
