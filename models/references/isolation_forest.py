"""Isolation forest on features: scikit-learn's.

Liu, Ting, Zhou: Isolation Forest, ICDM 2008.  Each tree splits a sample of the training images at random values of
random features until every image is alone; abnormal images are alone after few splits.  The defaults are the paper's:
100 trees on samples of 256 images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.defaults import IsolationForestHyperparameters
from models.references.features import FeatureReference

EULER = 0.5772156649015329


class IsolationForest(FeatureReference):
    """Reference whose score is 2^(-E[h(x)] / c), eq. 2 of the paper; variants `pca` and `pretrained`.

    The trees are tensors [trees, nodes], so that a stored detector is read without unpickling.  Each branch
    of a leaf leads to itself.
    """

    Hyperparameters = IsolationForestHyperparameters
    features: Tensor
    thresholds: Tensor
    branches: Tensor
    depths: Tensor
    normal_depth: Tensor

    def __init__(self, channels: int, size: int, hyperparameters: Any, variant: str = "pca", dataset: str = "") -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("features", torch.zeros(0, 0, dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("branches", torch.zeros(0, 0, 0, dtype=torch.int64))
        self.register_buffer("depths", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("normal_depth", torch.ones((), dtype=torch.float64))

    def fit_features(self, features: Tensor) -> None:
        """Fit scikit-learn's IsolationForest, whose seed is drawn from torch."""
        from sklearn.ensemble import IsolationForest as Forest  # it takes a second, and other detectors do not need it

        h = self.hyperparameters
        count = min(h.max_samples, len(features))
        seed = int(torch.randint(2**31 - 1, ()))
        forest = Forest(n_estimators=h.trees, max_samples=count, random_state=seed).fit(features.float().cpu().numpy())
        trees = [tree.tree_ for tree in forest.estimators_]
        nodes = max(tree.node_count for tree in trees)
        shape = (len(trees), nodes)
        self.features = torch.zeros(shape, dtype=torch.int64)
        self.branches = torch.zeros((2, *shape), dtype=torch.int64)
        self.thresholds, self.depths = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        for number, (tree, used) in enumerate(zip(trees, forest.estimators_features_, strict=True)):
            own = torch.arange(tree.node_count)
            leaf = torch.from_numpy(tree.children_left) < 0
            split = torch.from_numpy(tree.feature).clamp(min=0)
            self.features[number, own] = torch.from_numpy(used)[split]
            self.thresholds[number, own] = torch.from_numpy(tree.threshold)
            for side, children in enumerate((tree.children_left, tree.children_right)):
                self.branches[side, number, own] = torch.where(leaf, own, torch.from_numpy(children))
            self.depths[number, own] = _depths(tree) + _unbuilt_depth(torch.from_numpy(tree.n_node_samples))
        self.normal_depth = _unbuilt_depth(torch.tensor([count]))[0].clamp(min=1e-9)
        self.to(features.device)

    def score_features(self, features: Tensor) -> Tensor:
        """Compute the score from the mean depth at which each image is alone, [B] in (0, 1]."""
        x = features.float().double()  # as scikit-learn rounds them
        node = torch.zeros(len(x), len(self.features), dtype=torch.int64, device=x.device)
        tree = torch.arange(len(self.features), device=x.device)
        while True:
            right = (x.gather(1, self.features[tree, node]) > self.thresholds[tree, node]).long()
            following = self.branches[right, tree, node]
            if torch.equal(following, node):
                break
            node = following
        return torch.exp2(-self.depths[tree, node].mean(1) / self.normal_depth)


def _depths(tree: Any) -> Tensor:
    """Return the number of splits above each node of one of scikit-learn's trees, float64 [nodes]."""
    depths = torch.zeros(tree.node_count, dtype=torch.float64)
    for node in range(tree.node_count):  # children come after their parents
        for child in (tree.children_left[node], tree.children_right[node]):
            if child >= 0:
                depths[child] = depths[node] + 1
    return depths


def _unbuilt_depth(counts: Tensor) -> Tensor:
    """Return c(n), eq. 1: the mean depth of a random tree of n images, which stands for the splits below a leaf."""
    n = counts.double()
    deep = 2 * ((n - 1).log() + EULER) - 2 * (n - 1) / n
    return torch.where(n > 2, deep, (n == 2).double())
