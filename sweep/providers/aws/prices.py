"""Prices of instance types in dollars per hour: from the user, else from AWS, else from the package's table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

from sweep.providers.aws import client
from sweep.providers.aws.instances import table
from sweep.spec.cluster import Aws, Price

PRICING_REGION = "us-east-1"  # the API of the price list exists in a few regions, and covers all


@dataclass(frozen=True)
class Quote:
    """Prices in dollars per hour; None if unknown.

    Attributes:
        on_demand, spot: dollars per hour.
        on_demand_source, spot_source: sources of the prices.
    """

    on_demand: float | None
    spot: float | None
    on_demand_source: str
    spot_source: str


def quotes(cluster: Aws) -> dict[str, Quote]:
    """Return the prices of every instance type of a cluster.  AWS is asked if there are credentials."""
    names = dict.fromkeys((cluster.head, *cluster.worker))
    open_names = [name for name in names if not _is_given(cluster.prices.get(name))]
    ask = bool(open_names) and client.has_credentials()
    on_demand = _on_demand(cluster.region, open_names) if ask else {}
    spot = _spot(cluster, open_names) if ask else {}
    return {name: _quote(cluster, name, on_demand.get(name), spot.get(name)) for name in names}


def _quote(cluster: Aws, name: str, on_demand: float | None, spot: float | None) -> Quote:
    given = cluster.prices.get(name) or Price.model_validate({})
    row = table()["types"].get(name, {}) if table()["region"] == cluster.region else {}
    dated = f"the package's table of {table()['as_of']:%Y-%m-%d}"
    prices: list[float | None] = []
    sources: list[str] = []
    for own, asked, api_name, listed in (
        (given.on_demand, on_demand, "AWS's price list", row.get("on_demand")),
        (given.spot, spot, "EC2's present spot prices", row.get("spot")),
    ):
        known = [(own, "cluster.prices"), (asked, api_name), (listed, dated)]
        price, source = next(((p, s) for p, s in known if p is not None), (None, "unknown"))
        prices.append(price)
        sources.append(source)
    return Quote(prices[0], prices[1], sources[0], sources[1])


def _is_given(price: Price | None) -> bool:
    return price is not None and price.on_demand is not None and price.spot is not None


def _spot(cluster: Aws, names: Iterable[str]) -> dict[str, float]:
    """Return present spot prices: medians over the allowed zones; {} if EC2 does not answer."""
    found: dict[str, list[float]] = {}
    try:
        pages = client.client("ec2", cluster.region).get_paginator("describe_spot_price_history")
        for page in pages.paginate(
            InstanceTypes=list(names), ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC)
        ):
            for entry in page["SpotPriceHistory"]:
                if cluster.zones == "auto" or entry["AvailabilityZone"] in cluster.zones:
                    found.setdefault(entry["InstanceType"], []).append(float(entry["SpotPrice"]))
    except client.errors(KeyError, ValueError):
        return {}
    return {name: median(prices) for name, prices in found.items()}


def _on_demand(region: str, names: Iterable[str]) -> dict[str, float]:
    """Return on-demand prices of shared Linux machines, except those that the price list does not answer."""
    found = {}
    for name in names:
        asked = {
            "instanceType": name, "regionCode": region, "operatingSystem": "Linux", "tenancy": "Shared",
            "preInstalledSw": "NA", "capacitystatus": "Used",
        }  # fmt: skip
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in asked.items()]
        try:
            answer = client.client("pricing", PRICING_REGION).get_products(ServiceCode="AmazonEC2", Filters=filters)
            found[name] = _hourly(answer["PriceList"])
        except client.errors(LookupError, ValueError):
            return found  # the next request would probably also wait for its timeout
    return found


def _hourly(price_list: list[Any]) -> float:
    """Return dollars per hour from an answer of the price list: JSON texts of products with their terms.

    Raises:
        LookupError: the answer has no hourly price.
    """
    for product in map(json.loads, price_list):
        for term in product["terms"]["OnDemand"].values():
            for dimension in term["priceDimensions"].values():
                dollars = float(dimension["pricePerUnit"]["USD"])
                if dimension["unit"] == "Hrs" and dollars > 0:
                    return dollars
    raise LookupError("no hourly price")
