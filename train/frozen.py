"""Frozen networks over the same pixels: a hybrid's trunk and a teacher.

On a CPU, ONNX Runtime runs the convolutions of a mobile-size network several times faster than PyTorch.
"""

import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from vlcap.data.images import PixelConfig
from vlcap.export.graphs import write_graph
from vlcap.model.encoder import digest_weights

FEW = 128  # photos for which exporting the network to ONNX would take longer than it saves
LOGITS, POOLED = "logits", "pooled"  # names of a teacher's arrays


class Frozen(nn.Module):
    """uint8 pixels (B, 3, S, S) -> the trunk's feature maps, then the teacher's logits and pooled features.

    Args:
        pixels: Preprocessing of the student.
        trunk: Trunk of a hybrid encoder; None: no feature maps.
        teacher: timm classifier; None: no logits.
        teacher_size: Side in pixels of the teacher's input; None: the teacher's default.
        features: Whether to return the teacher's pooled features too.
    """

    def __init__(
        self,
        pixels: PixelConfig,
        trunk: nn.Module | None = None,
        teacher: nn.Module | None = None,
        teacher_size: int | None = None,
        features: bool = False,
    ):
        super().__init__()
        self.pixels, self.features = pixels, features
        self.trunk, self.teacher = trunk, teacher
        self.register_buffer("mean", torch.tensor(pixels.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(pixels.std).view(1, -1, 1, 1))
        self.size = pixels.size
        self.shared: list[int] | None = None  # indices of the feature maps, if the trunk is part of the teacher
        if teacher is not None:
            cfg = PixelConfig.from_pretrained_cfg(teacher.pretrained_cfg)
            self.register_buffer("teacher_mean", torch.tensor(cfg.mean).view(1, -1, 1, 1))
            self.register_buffer("teacher_std", torch.tensor(cfg.std).view(1, -1, 1, 1))
            self.size = teacher_size or cfg.size
            same = (self.size, cfg.mean, cfg.std) == (pixels.size, pixels.mean, pixels.std)
            if self.trunk is not None and same and _is_part(self.trunk, teacher):
                self.shared = self._indices
        self.requires_grad_(False).eval()

    @property
    def _indices(self) -> list[int]:
        return [] if self.trunk is None else [info["index"] for info in self.trunk.feature_info.get_dicts()]

    @property
    def maps(self) -> list[str]:
        """Names of the feature maps."""
        return [f"map{index}" for index in self._indices]

    @property
    def names(self) -> list[str]:
        """Names of all arrays, in the order of `forward`."""
        taught = [] if self.teacher is None else [LOGITS] + [POOLED] * self.features
        return self.maps + taught

    @property
    def has_teacher(self) -> bool:
        return self.teacher is not None

    def keys(self) -> dict[str, str]:
        """Digest of everything that an array depends on besides the pixels, by name."""
        keys: dict[str, str] = {}
        if self.trunk is not None:
            keys |= dict.fromkeys(self.maps, digest_weights(self.trunk))
        if self.teacher is not None:
            seen = f"{digest_weights(self.teacher)} {self.size}"
            keys |= dict.fromkeys(self.names[len(self.maps) :], hashlib.sha256(seen.encode()).hexdigest())
        return keys

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array for one photo, by name."""
        with torch.inference_mode():
            pixels = torch.zeros(1, 3, self.pixels.size, self.pixels.size, dtype=torch.uint8, device=self.mean.device)
            return {name: tuple(each.shape[1:]) for name, each in zip(self.names, self(pixels), strict=True)}

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        photos = pixels.float() / 255
        x = (photos - self.mean) / self.std
        if self.teacher is not None and self.shared is not None:
            last, maps = self.teacher.forward_intermediates(x, indices=self.shared)
        else:
            maps = [] if self.trunk is None else list(self.trunk(x))
            last = None if self.teacher is None else self.teacher.forward_features(self._for_teacher(photos))
        if self.teacher is None:
            return maps
        answers = [self.teacher.forward_head(last)]
        if self.features:
            answers.append(self.teacher.forward_head(last, pre_logits=True))
        return [*maps, *answers]

    def _for_teacher(self, photos: torch.Tensor) -> torch.Tensor:
        if self.size != self.pixels.size:
            photos = F.interpolate(photos, size=(self.size, self.size), mode="bicubic", antialias=True)
        return (photos - self.teacher_mean) / self.teacher_std

    def run(self, pixels: torch.Tensor, photos: int | None = None) -> list[np.ndarray]:
        """The same as `forward`, as float32 arrays, computed by the fastest engine available.

        Args:
            pixels: uint8 (B, 3, S, S).
            photos: Number of photos in the whole set, None for many. It decides the engine, so that an interrupted run
                goes on with the same one.
        """
        if self.mean.device.type != "cpu" or (photos is not None and photos <= FEW):
            return self._torch(pixels.numpy())
        return self._onnx(pixels.numpy())

    @torch.inference_mode()
    def _torch(self, pixels: np.ndarray) -> list[np.ndarray]:
        given = self(torch.from_numpy(pixels).to(self.mean.device))
        return [each.float().cpu().numpy() for each in given]

    @functools.cached_property
    def _onnx(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        import onnxruntime

        pixels = torch.zeros(2, 3, self.pixels.size, self.pixels.size, dtype=torch.uint8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frozen.onnx"
            write_graph(self, (pixels,), path, ["pixels"], self.names, {"pixels": {0: torch.export.Dim("rows")}})
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(self.names, {"pixels": batch})


def _is_part(trunk: nn.Module, classifier: nn.Module) -> bool:
    """Whether a classifier contains all of a trunk's weights under the same names."""
    whole = classifier.state_dict()
    return all(name in whole and torch.equal(weight, whole[name]) for name, weight in trunk.state_dict().items())
