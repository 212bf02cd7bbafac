"""Splits into train, validation and test: published counts, published draws, and invariants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.catalog import DATASETS, DECIMAL_DIGITS
from data.protocols import Split, split
from data.storage.loader import Dataset, load
from data.storage.shards import put
from sweep.store import open_store

REAL = Path(__file__).parents[3] / "shared" / "datasets"

TRAIN_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
TEST_COUNTS = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)

# protocol, abnormal digit: training normals, test normals, test abnormals, share of abnormals in test
MNIST_SIDES = {
    ("M1", "0"): (50477, 12620, 6903, 0.354),
    ("M1", "1"): (49698, 12425, 7877, 0.388),
    ("M1", "2"): (50408, 12602, 6990, 0.357),
    ("M1", "3"): (50287, 12572, 7141, 0.362),
    ("M1", "4"): (50540, 12636, 6824, 0.351),
    ("M1", "5"): (50949, 12738, 6313, 0.331),
    ("M1", "6"): (50499, 12625, 6876, 0.353),
    ("M1", "7"): (50165, 12542, 7293, 0.368),
    ("M1", "8"): (50540, 12635, 6825, 0.351),
    ("M1", "9"): (50433, 12609, 6958, 0.356),
    ("M0", "0"): (54077, 9020, 6903, 0.434),
    ("M0", "1"): (53258, 8865, 7877, 0.470),
    ("M0", "2"): (54042, 8968, 6990, 0.438),
    ("M0", "3"): (53869, 8990, 7141, 0.443),
    ("M0", "4"): (54158, 9018, 6824, 0.431),
    ("M0", "5"): (54579, 9108, 6313, 0.409),
    ("M0", "6"): (54082, 9042, 6876, 0.432),
    ("M0", "7"): (53735, 8972, 7293, 0.448),
    ("M0", "8"): (54149, 9026, 6825, 0.431),
    ("M0", "9"): (54051, 8991, 6958, 0.436),
}


CIFAR10_SIDES = {"C0": (45_000, 9_000, 6_000, 0.400), "C1": (43_200, 10_800, 6_000, 0.357)}


def make_dataset(name: str, labels: Any, source_split: Any, fingerprint: str = "0" * 64) -> Dataset:
    """Make a dataset in which only the labels matter."""
    return Dataset(
        name=name,
        preparation="s8-bilinear-1",
        fingerprint=fingerprint,
        classes=DECIMAL_DIGITS,
        images=np.zeros((len(labels), 1, 1, 1), np.uint8),
        labels=np.array(labels, np.int64),
        sample_ids=np.arange(len(labels)).astype(np.str_),
        source_split=np.array(source_split, np.str_),
        groups=np.full(len(labels), ""),
    )


@pytest.fixture(scope="module")
def counted_mnist() -> Dataset:
    random = np.random.RandomState(0)
    labels = [random.permutation(np.repeat(np.arange(10), counts)) for counts in (TRAIN_COUNTS, TEST_COUNTS)]
    return make_dataset("mnist", np.concatenate(labels), ["train"] * 60_000 + ["test"] * 10_000)


@pytest.fixture(scope="module")
def real_mnist(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if not (REAL / "MNIST" / "raw").is_dir():
        pytest.skip("the real MNIST is not on this machine")
    folder = tmp_path_factory.mktemp("mnist")
    store = open_store(str(folder / "store"))
    manifest = put(store, "mnist", size=8, root=REAL)
    return load(store, "mnist", manifest.preparation, folder / "cache")


def sides(dataset: Dataset, protocol: str, abnormal: str) -> tuple[int, int, int, float]:
    found = split(dataset, protocol, abnormal, 0, None)
    abnormals = int(found.test_labels.sum())
    return len(found.train), len(found.test) - abnormals, abnormals, round(abnormals / len(found.test), 3)


@pytest.mark.parametrize(("protocol", "abnormal"), MNIST_SIDES)
def test_published_class_counts_give_the_published_sides(protocol: str, abnormal: str, counted_mnist: Dataset) -> None:
    assert sides(counted_mnist, protocol, abnormal) == MNIST_SIDES[protocol, abnormal]


@pytest.mark.parametrize(("protocol", "abnormal"), MNIST_SIDES)
def test_the_real_mnist_gives_the_published_sides(protocol: str, abnormal: str, real_mnist: Dataset) -> None:
    assert sides(real_mnist, protocol, abnormal) == MNIST_SIDES[protocol, abnormal]


@pytest.mark.parametrize("seed", [0, 7])
def test_m1_draws_as_the_published_code_does(seed: int, counted_mnist: Dataset) -> None:
    normal = counted_mnist.labels != 4
    train_normals = np.flatnonzero(normal[:60_000])
    test_normals = 60_000 + np.flatnonzero(normal[60_000:])
    drawn = np.arange(len(train_normals) + len(test_normals))
    np.random.RandomState(seed).shuffle(drawn)
    merged = np.concatenate([train_normals, test_normals])[drawn]
    count = int(len(drawn) * 0.80)
    found = split(counted_mnist, "M1", "4", seed, None)
    assert np.array_equal(found.train, merged[:count])
    assert np.array_equal(found.test, np.concatenate([merged[count:], np.flatnonzero(~normal)]))


def test_m0_keeps_the_split_of_the_source_whatever_the_seed(counted_mnist: Dataset) -> None:
    found = split(counted_mnist, "M0", "4", 3, None)
    assert set(counted_mnist.source_split[found.train]) == {"train"}
    assert set(counted_mnist.source_split[found.test[found.test_labels == 0]]) == {"test"}
    assert np.array_equal(found.train, split(counted_mnist, "M0", "4", 5, None).train)


LEAVE_ONE_OUT = sorted(set(DATASETS) - {name for name, info in DATASETS.items() if info.default_protocol == "P1"})


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Draw a dataset of any order, with enough samples of every class to be split."""
    name = draw(st.sampled_from(LEAVE_ONE_OUT))
    parts = ["all"] if "D1" in DATASETS[name].protocols else ["train", "test"]
    random = np.random.RandomState(draw(st.integers(0, 1000)))
    labels = random.permutation(np.repeat(np.arange(10), random.randint(10, 15, 10)))
    source_split = random.permutation(np.resize(parts, len(labels)))
    return make_dataset(name, labels, source_split)


classes = st.sampled_from(DECIMAL_DIGITS)
seeds = st.integers(0, 2**32 - 1)
shares = st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5))


@st.composite
def requests(draw: st.DrawFn) -> tuple[Dataset, str, str, int]:
    dataset = draw(datasets())
    protocol = draw(st.sampled_from([name for name in DATASETS[dataset.name].protocols if name != "O1"]))
    return dataset, protocol, draw(classes), draw(seeds)


def same(first: Split, second: Split) -> bool:
    names = ("train", "test", "test_labels", "validation", "validation_labels")
    equal = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)
    return equal and first.hash == second.hash


@given(requests(), st.none() | shares)
def test_sides_are_disjoint_exhaustive_and_labelled(
    request: tuple[Dataset, str, str, int], validation: tuple[float, float] | None
) -> None:
    dataset, protocol, abnormal, seed = request
    found = split(dataset, protocol + ("v" if validation else ""), abnormal, seed, validation)
    everyone = np.concatenate([found.train, found.validation, found.test])
    assert len(np.unique(everyone)) == len(everyone)
    is_abnormal = dataset.labels == int(abnormal)
    assert np.array_equal(np.sort(everyone[is_abnormal[everyone]]), np.flatnonzero(is_abnormal))
    assert np.array_equal(np.sort(everyone), np.arange(len(dataset.labels)))
    assert not is_abnormal[found.train].any()
    assert np.array_equal(found.test_labels, is_abnormal[found.test])
    assert np.array_equal(found.validation_labels, is_abnormal[found.validation])


@given(requests())
def test_sides_are_as_large_as_declared(request: tuple[Dataset, str, str, int]) -> None:
    dataset, protocol, abnormal, seed = request
    found = split(dataset, protocol, abnormal, seed, None)
    normal = dataset.labels != int(abnormal)
    train = normal & (dataset.source_split == "train")
    assert len(found.train) == (train.sum() if protocol in ("M0", "C0") else int(0.8 * normal.sum()))
    assert found.test_labels.sum() == len(dataset.labels) - normal.sum()
    assert len(found.validation) == 0


@given(requests(), shares)
def test_validation_takes_its_shares_and_leaves_everyone_else_in_place(
    request: tuple[Dataset, str, str, int], validation: tuple[float, float]
) -> None:
    dataset, protocol, abnormal, seed = request
    without = split(dataset, protocol, abnormal, seed, None)
    carved = split(dataset, f"{protocol}v", abnormal, seed, validation)
    normals = carved.validation[carved.validation_labels == 0]
    abnormals = carved.validation[carved.validation_labels == 1]
    assert len(normals) == int(validation[0] * len(without.train))
    assert len(abnormals) == int(validation[1] * without.test_labels.sum())
    assert np.array_equal(carved.train, without.train[~np.isin(without.train, normals)])
    stays = ~np.isin(without.test, abnormals)
    assert np.array_equal(carved.test, without.test[stays])
    assert np.array_equal(carved.test_labels, without.test_labels[stays])


@given(requests(), shares)
def test_the_same_request_gives_the_same_split_and_touches_no_global_random_state(
    request: tuple[Dataset, str, str, int], validation: tuple[float, float]
) -> None:
    dataset, protocol, abnormal, seed = request
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    first = split(dataset, f"{protocol}v", abnormal, seed, validation)
    pixels = replace(dataset, images=dataset.images + 1, sample_ids=dataset.sample_ids[::-1])
    assert same(first, split(pixels, f"{protocol}v", abnormal, seed, validation))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


@given(requests(), shares)
def test_the_hash_changes_with_every_input(
    request: tuple[Dataset, str, str, int], validation: tuple[float, float]
) -> None:
    dataset, protocol, abnormal, seed = request
    normal, share = validation
    hashes = [
        split(dataset, protocol, abnormal, seed, None).hash,
        split(dataset, f"{protocol}v", abnormal, seed, validation).hash,
        split(dataset, f"{protocol}v", abnormal, seed, (normal + 1e-9, share)).hash,
        split(dataset, f"{protocol}v", abnormal, seed, (normal, share + 1e-9)).hash,
        split(dataset, protocol, abnormal, seed ^ 1, None).hash,
        split(dataset, protocol, str(9 - int(abnormal)), seed, None).hash,
        split(replace(dataset, fingerprint="1" * 64), protocol, abnormal, seed, None).hash,
        split(replace(dataset, labels=(dataset.labels + 1) % 10), protocol, abnormal, seed, None).hash,
    ]
    hashes += [
        split(dataset, other, abnormal, seed, None).hash
        for other in DATASETS[dataset.name].protocols
        if other not in (protocol, "O1")  # O1 has other names for the abnormal classes
    ]
    assert len(set(hashes)) == len(hashes)


def test_another_seed_draws_other_sides(counted_mnist: Dataset) -> None:
    first, second = (split(counted_mnist, "M1v", "0", seed, (0.1, 0.2)) for seed in (0, 1))
    assert set(first.train) != set(second.train)
    assert set(first.validation) != set(second.validation)


def test_split_hashes_never_change() -> None:
    digits = make_dataset("digits", [place % 10 for place in range(200)], ["all"] * 200)
    mnist = make_dataset("mnist", [place % 10 for place in range(200)], ["train"] * 100 + ["test"] * 100)
    assert [
        split(digits, "D1", "3", 0, None).hash[:16],
        split(digits, "D1v", "3", 1, (0.1, 0.2)).hash[:16],
        split(mnist, "M0", "3", 0, None).hash[:16],
        split(mnist, "M0v", "3", 0, (0.1, 0.2)).hash[:16],
        split(mnist, "M1", "3", 0, None).hash[:16],
    ] == ["1c9c2ecfd5106576", "cba3fcb07c2507e4", "883bcc8abfc90440", "7a6efc412a0a9a3e", "530babe6f600d8dd"]


@pytest.mark.parametrize(
    ("protocol", "abnormal", "seed", "validation", "message"),
    [
        ("M2", "0", 0, None, "protocol 'M2' is not legal for mnist with validation None: use one of M0, M1, O1$"),
        ("D1", "0", 0, None, "use one of M0, M1, O1$"),
        ("M0v", "0", 0, None, "use one of M0, M1, O1$"),
        ("M0", "0", 0, (0.1, 0.2), "use one of M0v, M1v, O1v$"),
        ("M0", "ten", 0, None, "mnist has no class 'ten': use one of 0, 1, 2"),
        ("M0", "not 1", 0, None, "mnist has no class 'not 1': use one of 0, 1, 2"),
        ("O1", "1", 0, None, "mnist has no class '1': use one of not 0, not 1, not 2"),
        ("O1", "not 1", 0, None, "mnist has no samples of the abnormal class 'not 1' under O1|has no test normals"),
        ("M0", "0", -1, None, "split_seed -1 is not legal: use 0 to 4294967295"),
        ("M0", "0", 2**32, None, "split_seed 4294967296 is not legal"),
        ("M0", "8", 0, None, "mnist has no samples of the abnormal class '8' under M0; .*8: 0"),
        ("M0", "9", 0, None, "mnist has no test normals under M0"),
        ("M0v", "0", 0, (0.0, 0.2), r"validation share 0\.0 of 2 training normals is not legal"),
        ("M0v", "0", 0, (0.5, 1.0), r"validation share 1\.0 of 2 test abnormals is not legal"),
        ("M0v", "0", 0, (0.1, 0.5), r"use at least 1/2 and less than 1"),
    ],
)
def test_what_cannot_be_split_is_refused(
    protocol: str, abnormal: str, seed: int, validation: tuple[float, float] | None, message: str
) -> None:
    tiny = make_dataset("mnist", [0, 9, 1, 0, 9], ["train", "test", "train", "train", "test"])
    if abnormal == "0":
        tiny = make_dataset("mnist", [0, 9, 1, 0, 9], ["train", "train", "train", "train", "test"])
    with pytest.raises(ValueError, match=message):
        split(tiny, protocol, abnormal, seed, validation)


@pytest.mark.parametrize("protocol", CIFAR10_SIDES)
@pytest.mark.parametrize("abnormal", DATASETS["cifar10"].classes)
def test_cifar10_has_the_published_counts(protocol: str, abnormal: str) -> None:
    random = np.random.RandomState(0)
    labels = np.concatenate([random.permutation(np.repeat(np.arange(10), count)) for count in (5_000, 1_000)])
    counted = replace(
        make_dataset("cifar10", labels, ["train"] * 50_000 + ["test"] * 10_000), classes=DATASETS["cifar10"].classes
    )
    found = split(counted, protocol, abnormal, 0, None)
    normal, abnormals = int((found.test_labels == 0).sum()), int(found.test_labels.sum())
    assert (len(found.train), normal, abnormals, round(abnormals / len(found.test), 3)) == CIFAR10_SIDES[protocol]


FASHION_MNIST_SIDES = {"M0": (54_000, 9_000, 7_000), "M1": (50_400, 12_600, 7_000)}


@pytest.mark.parametrize("protocol", FASHION_MNIST_SIDES)
@pytest.mark.parametrize("abnormal", ["T-shirt/top", "Ankle boot"])
def test_fashion_mnist_is_split_as_mnist_is(protocol: str, abnormal: str) -> None:
    labels = np.concatenate([np.repeat(np.arange(10), count) for count in (6_000, 1_000)])
    counted = replace(
        make_dataset("fashion_mnist", labels, ["train"] * 60_000 + ["test"] * 10_000),
        classes=DATASETS["fashion_mnist"].classes,
    )
    found = split(counted, protocol, abnormal, 0, None)
    abnormals = int(found.test_labels.sum())
    assert (len(found.train), len(found.test) - abnormals, abnormals) == FASHION_MNIST_SIDES[protocol]


# -- one class is normal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normal", range(10))
def test_o1_trains_on_one_class_and_tests_on_the_whole_test_split(normal: int, counted_mnist: Dataset) -> None:
    found = split(counted_mnist, "O1", f"not {normal}", 0, None)
    assert np.array_equal(found.train, np.flatnonzero(counted_mnist.labels[:60_000] == normal))
    assert np.array_equal(np.sort(found.test), np.arange(60_000, 70_000))
    assert np.array_equal(found.test_labels, counted_mnist.labels[found.test] != normal)
    abnormals = sum(TEST_COUNTS) - TEST_COUNTS[normal]
    assert sides(counted_mnist, "O1", f"not {normal}")[:3] == (TRAIN_COUNTS[normal], TEST_COUNTS[normal], abnormals)


@pytest.mark.parametrize("normal", range(10))
def test_o1_on_the_real_mnist_has_the_counts_of_its_classes(normal: int, real_mnist: Dataset) -> None:
    counts = (TRAIN_COUNTS[normal], TEST_COUNTS[normal], 10_000 - TEST_COUNTS[normal])
    assert sides(real_mnist, "O1", f"not {normal}")[:3] == counts


@pytest.mark.parametrize(
    ("name", "train", "test"), [("cifar10", 5_000, 1_000), ("fashion_mnist", 6_000, 1_000)], ids=["cifar10", "fashion"]
)
def test_o1_of_balanced_sets(name: str, train: int, test: int) -> None:
    labels = np.concatenate([np.repeat(np.arange(10), count) for count in (train, test)])
    parts = ["train"] * (10 * train) + ["test"] * (10 * test)
    counted = replace(make_dataset(name, labels, parts), classes=DATASETS[name].classes)
    for title in DATASETS[name].abnormal("O1"):
        assert sides(counted, "O1", title) == (train, test, 9 * test, 0.9)


@given(classes, seeds, shares)
def test_o1_with_validation_moves_shares_of_both_sides(normal: str, seed: int, validation: tuple[float, float]) -> None:
    dataset = make_dataset("mnist", np.arange(400) % 10, ["train"] * 200 + ["test"] * 200)
    whole = split(dataset, "O1", f"not {normal}", seed, None)
    carved = split(dataset, "O1v", f"not {normal}", seed, validation)
    kept = np.concatenate([carved.train, carved.test, carved.validation])
    assert np.array_equal(np.sort(kept), np.sort(np.concatenate([whole.train, whole.test])))
    assert (carved.validation_labels == 0).sum() == int(validation[0] * len(whole.train))
    assert carved.validation_labels.sum() == int(validation[1] * whole.test_labels.sum())
    assert whole.test_labels[~np.isin(whole.test, carved.test)].all(), "test normals stay where they are"
    assert np.array_equal(whole.train, split(dataset, "O1", f"not {normal}", seed ^ 1, None).train)


def test_o1_names_its_classes_after_the_normal_one_in_every_set_that_has_it() -> None:
    having = {name: info for name, info in DATASETS.items() if "O1" in info.protocols}
    assert set(having) == {"mnist", "fashion_mnist", "cifar10"}
    for info in having.values():
        assert info.abnormal("O1") == info.huntable("O1") == tuple(f"not {name}" for name in info.classes)
        assert info.abnormal() == info.huntable() == info.classes
