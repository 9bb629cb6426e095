"""Ridge regression on class labels, in closed form: a linear classifier on frozen features.

The few-shot evaluation of ViT (arXiv 2010.11929, section 4.1): regularized least squares from the features to targets
of 1 for the class and -1 for the others. The intercept is not regularized. These are the weights of scikit-learn's
`RidgeClassifier` (tests/vlcap/test_probing.py).

Legend of shapes
    n: photos   D: features   C: classes
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Linear(NamedTuple):
    """A linear classifier: weight (D, C) and bias (C,), float64."""

    weight: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Features (n, D) -> scores (n, C)."""
        return features @ self.weight + self.bias

    def classes(self, features: np.ndarray) -> np.ndarray:
        """Features (n, D) -> the likeliest class of each (n,)."""
        return self.scores(features).argmax(axis=1)


def ridge(features: np.ndarray, labels: np.ndarray, classes: int, strengths: Sequence[float]) -> list[Linear]:
    """The classifiers of several strengths, from one eigendecomposition.

    W minimises |Y - X W - b|^2 + strength |W|^2. With centred X and Y, W = (X'X + strength)^-1 X'Y, or equally
    X' (XX' + strength)^-1 Y; the smaller of the two matrices is decomposed.

    Args:
        features: X (n, D).
        labels: Class numbers (n,).
        classes: C.
        strengths: Regularization, positive; scikit-learn's alpha.
    """
    x = features.astype(np.float64)
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    middle, mean = x.mean(axis=0), y.mean(axis=0)
    x, y = x - middle, y - mean
    wide = x.shape[0] < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    inside = vectors.T @ (y if wide else x.T @ y)
    found = []
    for strength in strengths:
        weight = vectors @ (inside / (values.clip(min=0) + strength)[:, None])
        weight = x.T @ weight if wide else weight
        found.append(Linear(weight, mean - middle @ weight))
    return found


def spread(features: np.ndarray) -> float:
    """Mean squared distance of features (n, D) from their mean: the unit of a strength that suits any encoder."""
    return float(np.square(features - features.mean(axis=0)).sum(axis=1).mean()) or 1.0
