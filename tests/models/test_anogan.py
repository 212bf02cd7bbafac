"""AnoGAN: the loss that each network learns from, and its latent search against a plain search of each image."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.anogan import AnoGAN, learning_rate
from models.defaults import AnoGANHyperparameters
from models.scoring import combine
from tests.models.test_published import batches

SEARCH_LR = [(201, 0.01), (100, 0.001), (199, 0.0005)]  # numbers of steps and rates in the code of EGBAD's authors


pytestmark = pytest.mark.usefixtures("one_thread")


def make(size: int = 16, /, **hyperparameters: float) -> AnoGAN:
    torch.manual_seed(0)
    chosen = {"width": 4, "nz": 6, "steps": 5, **hyperparameters}
    return AnoGAN(1, size, AnoGANHyperparameters(**chosen))  # type: ignore[arg-type]  # int or float


def make_trained(**hyperparameters: float) -> AnoGAN:
    made = make(16, lr=1e-3, **hyperparameters)
    for x in batches(16):
        made.train_step(x)
    return made


def test_each_network_learns_from_its_own_loss_alone() -> None:
    made = make(lr=0.0)  # so the generator's loss uses the discriminator from before the step
    g, d = copy.deepcopy(made.generator).train(), copy.deepcopy(made.discriminator).train()
    x = batches(16)[0]
    torch.manual_seed(5)
    made.train_step(x)

    torch.manual_seed(5)
    fake = g(torch.randn(len(x), made.nz, 1, 1))
    loss_d = -(d(x)[0].log().mean() + (1 - d(fake.detach())[0]).log().mean())
    loss_g = -d(fake)[0].log().mean()
    for network, ours, loss in ((d, made.discriminator, loss_d), (g, made.generator, loss_g)):
        expected = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for parameter, gradient in zip(ours.parameters(), expected, strict=True):
            assert parameter.grad is not None and parameter.grad.any()
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def plain_search(made: AnoGAN, x: Tensor, start: Tensor) -> tuple[float, float]:
    """Search the code of a single image with torch's own Adam; return the last step's two losses."""
    g, d = copy.deepcopy(made.generator).eval(), copy.deepcopy(made.discriminator).eval()
    z = nn.Parameter(start.clone())
    adam = torch.optim.Adam([z], lr=0.01, fused=True)

    def losses() -> tuple[Tensor, Tensor]:
        fake = g(z)
        return (x - fake).abs().sum(), (d(x)[1] - d(fake)[1]).abs().sum()

    for step in range(made.steps):
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, made.steps)
        adam.zero_grad()
        residual, discrimination = losses()
        torch.autograd.backward(0.9 * residual + 0.1 * discrimination)
        adam.step()
    residual, discrimination = losses()
    return residual.item(), discrimination.item()


def test_a_batch_is_searched_as_each_image_alone() -> None:
    made = make_trained(steps=20)
    x = batches(16)[1]
    (start,) = made.starts(x.device)
    parts = made.score(x)
    for place in range(3):
        residual, discrimination = plain_search(made, x[place : place + 1], start)
        assert parts["reconstruction"][place].item() == pytest.approx(residual, rel=1e-5)
        assert parts["latent"][place].item() == pytest.approx(discrimination, rel=1e-5)


def anomaly_score(made: AnoGAN, x: Tensor) -> Tensor:
    return torch.from_numpy(combine({name: part.numpy() for name, part in made.score(x).items()}, 0.9))


def test_lambda_of_the_catalog_gives_what_the_search_minimises_and_more_steps_less_of_it() -> None:
    made = make_trained()
    x = batches(16)[1]
    parts = made.score(x)
    torch.testing.assert_close(
        anomaly_score(made, x), (0.9 * parts["reconstruction"] + 0.1 * parts["latent"]).double(), rtol=1e-6, atol=0
    )
    scores = []
    for made.steps in (0, 10, 100):
        scores.append(anomaly_score(made, x))
    assert (scores[1] < scores[0]).all() and (scores[2] < scores[1]).all()


def test_an_image_that_the_generator_makes_is_found_again_better_than_noise() -> None:
    made = make_trained(steps=200)
    made.eval()
    with torch.no_grad():
        made_by_g = made.generator(made.starts(torch.device("cpu"))[0] + 0.3)
    noise = made_by_g.flatten()[torch.randperm(256)].reshape(1, 1, 16, 16)
    generated, shuffled = anomaly_score(made, torch.cat([made_by_g, noise]))
    assert generated < 0.2 * shuffled


def test_restarts_keep_the_best_of_each_image_and_both_its_parts() -> None:
    made = make_trained(steps=5)
    x = batches(16)[1]
    cpu = x.device
    made.restarts = 4
    starts = made.starts(cpu)
    assert not torch.equal(starts[0], starts[1])
    best = made.score(x)
    singly = []
    for start in starts:
        made.starts = lambda _, only=start: [only]  # type: ignore[method-assign,misc]
        singly.append(made.score(x))
    totals = torch.stack([0.9 * parts["reconstruction"] + 0.1 * parts["latent"] for parts in singly])
    chosen = totals.argmin(0)
    assert len(set(chosen.tolist())) > 1, "the test needs images with different best starts"
    for name, part in best.items():
        assert part.tolist() == [singly[run][name][place].item() for place, run in enumerate(chosen.tolist())]


def test_more_restarts_change_no_start_and_can_only_lower_the_score() -> None:
    one, three = make_trained(restarts=1), make_trained(restarts=3)
    assert torch.equal(one.starts(torch.device("cpu"))[0], three.starts(torch.device("cpu"))[0])
    x = batches(16)[1]
    assert (anomaly_score(three, x) <= anomaly_score(one, x)).all()


def test_scoring_leaves_gradients_and_what_requires_them_as_found() -> None:
    made = make_trained()
    made.generator[0].requires_grad_(False)
    required = [parameter.requires_grad for parameter in made.parameters()]
    before = {name: None if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}
    parts = made.score(batches(16)[1])
    for name, parameter in made.named_parameters():
        kept = before[name]
        assert (parameter.grad is None) == (kept is None)
        assert kept is None or (parameter.grad is not None and torch.equal(parameter.grad, kept))
    assert required == [parameter.requires_grad for parameter in made.parameters()]
    assert not any(part.requires_grad for part in parts.values())


def test_scores_do_not_depend_on_torchs_random_state() -> None:
    made = make_trained(restarts=2)
    x = batches(16)[1]
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        scores.append(anomaly_score(made, x))
    assert torch.equal(*scores)


def test_the_searchs_learning_rate_is_that_of_egbads_authors_and_scales_with_the_steps() -> None:
    expected = [rate for count, rate in SEARCH_LR for _ in range(count)]
    assert [learning_rate(step, 500) for step in range(500)] == expected
    assert [learning_rate(step, 5) for step in range(5)] == [0.01, 0.01, 0.01, 0.001, 0.0005]


@pytest.mark.parametrize(
    ("size", "channels", "g", "d"),
    [(32, 1, 1_066_880, 661_248), (32, 3, 1_068_928, 663_296), (64, 3, 3_576_704, 2_765_568)],
)
def test_parameter_counts_are_those_of_the_head(size: int, channels: int, g: int, d: int) -> None:
    with torch.device("meta"):
        made = AnoGAN(channels, size, AnoGANHyperparameters())
    assert sum(p.numel() for p in made.generator.parameters()) == g
    assert sum(p.numel() for p in made.discriminator.parameters()) == d


@pytest.mark.parametrize("size", [64, 128])
def test_other_sizes_give_one_score_an_image(size: int) -> None:
    made = make(size, width=2, nz=3, steps=2)
    for part in made.score(torch.zeros(2, 1, size, size)).values():
        assert part.shape == (2,)
