"""The budget of a launch, by provider: it is enforced, or a warning explains that it is not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.cli.session import Session
from sweep.launch.check import check
from sweep.launch.local import exhausted_budget
from sweep.providers.registry import provider_of
from sweep.spec.load import resolve
from sweep.spec.sweep import Budget, Sweep
from tests.support.aws_sweeps import STUDY, sweep_on_aws
from tests.support.providers import on_hosts, on_ray, on_slurm

ROOT = Path(__file__).parents[2]


def here(**cluster: Any) -> Sweep:
    return resolve({"storage": "./r", "cluster": cluster, "sweep": {"studies": [STUDY]}})


def with_budget(sweep: Sweep, **budget: float) -> Sweep:
    return sweep.model_copy(update={"budget": Budget(**budget)})


ELSEWHERE = [on_hosts(), on_slurm(Path("/nowhere")), on_ray("http://127.0.0.1:9", cpus=4, gpus=0)]


@pytest.mark.parametrize("sweep", [*ELSEWHERE, here()], ids=lambda sweep: sweep.cluster.provider)
def test_dollars_that_nobody_counts_are_said_with_what_holds(sweep: Sweep) -> None:
    assert provider_of(with_budget(sweep, max_hours=24)).budget_caution() == ""
    caution = provider_of(with_budget(sweep, max_usd=50)).budget_caution()
    assert f"budget.max_usd=50 is not enforced on provider {sweep.cluster.provider}" in caution
    assert "budget.max_hours is enforced there (give it)" in caution
    assert "(it is 24)" in provider_of(with_budget(sweep, max_usd=50, max_hours=24)).budget_caution()
    assert ("cluster.usd_per_hour" in caution) == (sweep.cluster.provider == "local")


def test_where_dollars_are_counted_nothing_is_said() -> None:
    assert provider_of(with_budget(here(usd_per_hour=2), max_usd=50)).budget_caution() == ""
    assert provider_of(with_budget(sweep_on_aws(), max_usd=50, max_hours=1)).budget_caution() == ""


def test_a_check_says_so_and_fails_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = (f for f in check(with_budget(on_slurm(tmp_path), max_usd=50)).findings if f.name == "budget")
    assert "budget.max_usd=50 is not enforced" in found.found
    assert (found.state, found.fix) == ("unknown", "--set budget.max_hours=HOURS")


def test_a_plan_says_so_to_persons_and_to_programs(tmp_path: Path) -> None:
    session = Session(ROOT / "clusters/local.yaml", [f"storage={tmp_path}", "budget.max_usd=50"])
    caution = session.provider.budget_caution()
    status, unreached = session.read_status_if_reached()
    assert caution and caution in session.plan_json(status, unreached)["cautions"]
    out = io.StringIO()
    Console(file=out, width=500).print(session.plan_table(status, unreached))
    assert caution in out.getvalue()


@pytest.mark.parametrize(
    ("price", "budget", "hours", "spent"),
    [
        (None, {"max_hours": 2}, 1.9, None),
        (None, {"max_hours": 2}, 2.1, "budget.max_hours=2"),
        (0.5, {"max_usd": 1}, 1.9, None),
        (0.5, {"max_usd": 1}, 2.1, "budget.max_usd=1"),
        (0.0, {"max_usd": 1}, 1e9, None),
        (None, {"max_usd": 1}, 1e9, None),
        (0.5, {"max_usd": 1, "max_hours": 9}, 2.1, "budget.max_usd=1"),
        (None, {}, 1e9, None),
    ],
)
def test_a_launch_on_this_machine_is_held_to_hours_and_with_a_price_to_dollars(
    price: float | None, budget: dict[str, float], hours: float, spent: str | None
) -> None:
    sweep = with_budget(here(usd_per_hour=price), **budget)
    assert exhausted_budget(sweep, began=100.0, clock=lambda: 100.0 + hours * 3600) == spent
