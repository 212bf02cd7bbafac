"""The caption of a board names the lines whose features come from a network that saw ImageNet, and no others."""

from __future__ import annotations

from sweep.leaderboard.board import build
from sweep.report.sheets import sheets
from tests.leaderboard.test_board import rows


def captions(*detectors: tuple[str, str, str]) -> list[str]:
    found = [
        row
        for detector, variant, weights in detectors
        for row in rows({"0": (0.8, 0.9), "1": (0.7, 0.8)}, detector, variant=variant, hp_weights=weights)
    ]
    first, *_ = sheets(build(found))
    return [text for text in first.captions if "ImageNet" in text]


def test_lines_with_pretrained_features_are_named_and_no_others() -> None:
    seen = ("feature_knn", "plain", "efficientnet_lite0"), ("mahalanobis", "pretrained", "w/resnet18-f37072fd.pth")
    blind = ("mahalanobis", "pca", ""), ("knn", "plain", "")
    (caption,) = captions(*seen, *blind)
    assert caption.startswith("saw ImageNet: ") and "knn, " not in caption.replace("feature_knn, ", "")
    assert {"feature_knn", "mahalanobis pretrained"} <= set(caption.partition(": ")[2].partition(".")[0].split(", "))
    assert "mahalanobis pca" not in caption
    assert captions(*blind) == []
