"""Pretrained features: weights that are found, checked and refused; features of each network; nearest neighbours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models import pretrained
from models.build import build
from models.components.efficientnet_lite import FEATURES, EfficientNetLite0
from models.pretrained import BUILT_IN, MissingWeights, find
from models.references.features import PretrainedFeatures
from tests.conftest import unavailable
from tests.support.random_weights import FEATURES as SMALL_FEATURES
from tests.support.random_weights import NETWORK, random_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    drawn = np.random.RandomState(seed).randint(0, 256, (count, channels, size, size))
    return torch.from_numpy(drawn.astype(np.uint8))


@pytest.fixture(scope="module")
def imagenet() -> str:
    """Return the name of the weights of the extra, if it is installed."""
    try:
        find(BUILT_IN)
    except MissingWeights:
        unavailable("the extra `pretrained` is not installed")
    return BUILT_IN


# -- weights --------------------------------------------------------------------------------------


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "MODULE", "no_such_module")
    with pytest.raises(MissingWeights, match=r"not installed: .*uv run --extra pretrained.*weights: PATH") as problem:
        find(BUILT_IN)
    assert "\n" not in str(problem.value)


def test_a_file_is_found_by_the_name_that_torchvision_gives_it() -> None:
    found = find(random_weights())
    assert found.network == NETWORK and found.path == Path(random_weights())
    assert found.digest in found.path.name


@pytest.mark.parametrize(
    "name", ["resnet18.pth", "resnet18-123.pth", "alexnet-f37072fd.pth", "resnet18-f37072fd.pt", ""]
)
def test_a_file_of_another_name_is_refused_with_the_legal_form(name: str) -> None:
    with pytest.raises(MissingWeights, match=r"NETWORK-HASH\.pth.* networks are resnet18, "):
        find(f"folder/{name}")


def test_a_file_that_is_missing_or_of_other_content_is_refused(tmp_path: Path) -> None:
    named = tmp_path / Path(random_weights()).name
    with pytest.raises(MissingWeights, match="cannot be read: No such file"):
        find(str(named))
    named.write_bytes(Path(random_weights()).read_bytes() + b"0")
    with pytest.raises(MissingWeights, match="damaged or wrongly named: their SHA-256 begins with"):
        find(str(named))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    content = Path(random_weights()).read_bytes()
    digest = Path(random_weights()).stem.rpartition("-")[2]
    named = tmp_path / f"resnet18-{digest}.pth"
    named.write_bytes(content)
    with pytest.raises(MissingWeights, match="is not a state dict of torchvision's resnet18"):
        PretrainedFeatures(str(named), 32)(images(1))


def test_pickled_code_in_a_file_of_weights_does_not_run(tmp_path: Path) -> None:
    import hashlib

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(Evil(), tmp_path / "evil")
    content = (tmp_path / "evil").read_bytes()
    named = tmp_path / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    named.write_bytes(content)
    with pytest.raises(MissingWeights, match="is not a state dict"):
        PretrainedFeatures(str(named), 32)(images(1))
    assert not (tmp_path / "ran").exists()


# -- features -------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", pretrained.NETWORKS)
def test_the_classifier_of_every_legal_network_can_be_cut_off(network: str) -> None:
    from torchvision.models import get_model

    with torch.device("meta"):
        made = get_model(network, weights=None)
    *_, name = (child for child, _ in made.named_children())
    width = next(module for module in getattr(made, name).modules() if isinstance(module, torch.nn.Linear)).in_features
    setattr(made, name, torch.nn.Identity())
    assert made.eval()(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, width)


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 32), (3, 64)])
def test_features_are_the_pooled_map_of_the_network_on_enlarged_scaled_images(channels: int, size: int) -> None:
    from torchvision.models import get_model

    network = get_model(NETWORK, weights=None)
    network.load_state_dict(torch.load(random_weights(), weights_only=True))
    x = images(3, channels, size).expand(-1, 3, -1, -1) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = functional.interpolate(x, size=48, mode="bilinear")
    with torch.no_grad():
        expected = network.eval().features(x).mean((2, 3))
    found = PretrainedFeatures(random_weights(), 48)(images(3, channels, size))
    assert found.dtype == torch.float16 and found.shape == (3, SMALL_FEATURES)
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_reading_the_network_draws_no_random_number_that_a_detector_sees() -> None:
    before = torch.get_rng_state()
    PretrainedFeatures(random_weights(), 32)(images(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_identity_changes_with_the_network_and_the_resolution() -> None:
    made = [PretrainedFeatures(*values).identity for values in ((random_weights(), 32), (random_weights(), 64))]
    assert len(set(made)) == 2 and made[0] == PretrainedFeatures(random_weights(), 32).identity


def test_efficientnet_lite_has_its_published_size_and_map() -> None:
    with torch.device("meta"):
        made = EfficientNetLite0()
        assert made.eval()(torch.zeros(2, 3, 113, 113)).shape == (2, FEATURES)
    trunk = sum(parameter.numel() for parameter in made.parameters())
    assert trunk + 1000 * FEATURES + 1000 == 4_652_008  # with the classifier: 4.7 M, as published


def test_efficientnet_lite_gives_the_features_of_the_published_code(imagenet: str) -> None:
    """Check numbers that github.com/ml-illustrated/EfficientNet-Lite-PyTorch 0.1.0 gave for the same input and weights.

    The input is a wave, so that it needs no random numbers.
    """
    made = EfficientNetLite0().eval()
    state = torch.load(find(imagenet).path, weights_only=True)
    made.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
    rows = torch.arange(112, dtype=torch.float64)
    wave = torch.stack([torch.sin(rows[:, None] * a / 10 + rows * b / 10) for a, b in ((1, 2), (2, 1), (3, -1))])
    with torch.no_grad():
        features = made(wave.float()[None])[0]
    largest = {390: 5.12774, 292: 4.84516, 949: 4.41779, 270: 4.28885, 701: 4.15604, 515: 3.97659}
    found = {place: float(features[place]) for place in largest}
    assert found == pytest.approx(largest, rel=1e-4)
    assert float(features.mean()) == pytest.approx(0.220780, rel=1e-4)


# -- nearest neighbours ---------------------------------------------------------------------------


@pytest.mark.parametrize(("neighbours", "count"), [(1, 30), (5, 30), (40, 30), (5, 3)])
def test_feature_knn_is_the_mean_cosine_distance_to_the_nearest(neighbours: int, count: int) -> None:
    values = {"neighbours": neighbours, "weights": random_weights(), "resolution": 32}
    made = build("feature_knn", channels=3, size=16, hyperparameters=values, variant="plain")
    made.fit(images(count))
    compute = PretrainedFeatures(random_weights(), 32)
    train, test = (functional.normalize(compute(part).double(), dim=1) for part in (images(count), images(7, seed=1)))
    expected = (1 - test @ train.T).sort(1).values[:, :neighbours].mean(1)
    found = made.score(made.normalise(images(7, seed=1)))["score"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_feature_knn_of_a_training_image_is_zero() -> None:
    values = {"neighbours": 1, "weights": random_weights(), "resolution": 32}
    made = build("feature_knn", channels=1, size=16, hyperparameters=values, variant="plain")
    made.fit(images(20, 1))
    assert made.score(made.normalise(images(20, 1)))["score"].abs().max() < 1e-6
