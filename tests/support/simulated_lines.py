"""Two lines of a board with known class means: scores of the same test images, with seeds that classes share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from sweep.leaderboard.headline import ClassMeans
from sweep.trial.metrics import auroc, influence

CLASSES, IMAGES = 4, 50  # classes, and test images of each


@dataclass(frozen=True)
class Line:
    """A detector whose scores of abnormal images are higher by `shift` on average.

    Attributes:
        shift: mean difference between abnormal and normal images, in standard deviations of an image's score.
        seeds: number of seeds; 1 for a detector that gives the same with each.
        spread: standard deviation over seeds of the shift, which all classes share; each class has half of it as well.
        shared: share of an image's deviation that all seeds have.
    """

    shift: float
    seeds: int
    spread: float = 0.0
    shared: float = 0.6

    @property
    def truth(self) -> float:
        """Expected class mean, over seeds and test images."""
        return float(norm.cdf(self.shift / np.sqrt(2.0 + 1.25 * (self.spread if self.seeds > 1 else 0.0) ** 2)))

    def draw(self, images: npt.NDArray[np.float64], rng: np.random.Generator) -> ClassMeans:
        """Return the class means of new seeds on some test images.

        Args:
            images: float64 [CLASSES * IMAGES], deviation of each image that both lines share.
            rng: source of everything else.
        """
        classes = np.repeat(np.arange(CLASSES), IMAGES)
        line = self if self.seeds > 1 else replace(self, spread=0.0, shared=1.0)
        common = np.sqrt(0.5) * (images + rng.normal(size=len(images)))
        spread = rng.normal(size=(self.seeds, 1)) + 0.5 * rng.normal(size=(self.seeds, CLASSES))
        shifts = line.shift + line.spread * spread
        values, found = {}, np.zeros((self.seeds, len(images)))
        for seed in range(self.seeds):
            noise = np.sqrt(line.shared) * common + np.sqrt(1.0 - line.shared) * rng.normal(size=len(images))
            aurocs = []
            for abnormal in range(CLASSES):
                labels = (classes == abnormal).astype(np.uint8)
                scores = noise + shifts[seed, abnormal] * labels
                aurocs.append(auroc(labels, scores))
                found[seed] += influence(labels, scores) / CLASSES
            values[0, seed] = fmean(aurocs)
        return ClassMeans(values, exact=self.seeds == 1, influence=found)


def draw_pair(first: Line, second: Line, rng: np.random.Generator) -> tuple[ClassMeans, ClassMeans]:
    """Return the class means of two lines on the same new test images."""
    images = rng.normal(size=CLASSES * IMAGES)
    return first.draw(images, rng), second.draw(images, rng)
