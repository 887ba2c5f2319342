"""What watches a cluster names the metrics that the code shows, with the tags that these have."""

import json
import re
from pathlib import Path

import pytest
import yaml

from mralign.run.metrics import SHOWN, WAITING

MONITORING = Path(__file__).resolve().parents[2] / "cluster" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
TARGETS = [(panel["title"], target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
OURS = {f"ray_{metric.name}": metric for metric in SHOWN}
RAYS = {"ray_node_gpus_utilization", "ray_node_mem_used", "ray_node_mem_total"}


def names_in(expression):
    return set(re.findall(r"\bray_\w+", expression))


def test_the_dashboard_shows_every_metric_and_no_other():
    named = set().union(*(names_in(target["expr"]) for _, target in TARGETS))
    assert named - RAYS == set(OURS)


def test_alerts_name_metrics_that_exist():
    for rule in RULES:
        assert names_in(rule["expr"])
        assert names_in(rule["expr"]) <= set(OURS) | RAYS, rule["alert"]


@pytest.mark.parametrize("name", sorted(RAYS))
def test_rays_own_metrics_are_in_its_dashboards_as_well(name):
    """Ray ships the dashboards that it puts into Grafana; a name that it gives up is missed there."""
    from ray.dashboard.modules.metrics import dashboards

    place = Path(dashboards.__file__).parent if dashboards.__file__ else Path(next(iter(dashboards.__path__)))
    assert any(name in file.read_text() for file in place.rglob("*.py"))


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title} {t['refId']}" for title, t in TARGETS])
def test_what_a_curve_is_told_apart_by_is_a_tag_of_its_metric(title, target):
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    grouped = {tag.strip() for tags in re.findall(r"by \(([\w, ]+)\)", target["expr"]) for tag in tags.split(",")}
    for name in names_in(target["expr"]) & set(OURS):
        assert shown | grouped <= set(OURS[name].tags), title
    assert not grouped or shown == grouped


def test_an_alert_speaks_of_tags_that_its_expression_keeps_and_says_what_to_do():
    for rule in RULES:
        spoken = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        kept = {tag.strip() for tags in re.findall(r"by \(([\w, ]+)\)", rule["expr"]) for tag in tags.split(",")}
        assert spoken <= kept, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_expressions_are_balanced_and_counters_are_read_as_rates():
    for expression in [*(target["expr"] for _, target in TARGETS), *(rule["expr"] for rule in RULES)]:
        for opened, closed in ("()", "[]", "{}"):
            assert expression.count(opened) == expression.count(closed)
        for name, metric in OURS.items():
            for place in re.finditer(rf"\b{name}\b", expression):
                before = expression[: place.start()]
                assert metric.adds == before.endswith(("rate(", "increase(")), expression


def test_names_carry_their_unit_and_counters_end_in_total():
    units = ("_total", "_waiting", "_money", "_running", "_step", "_steps_planned", "_loss", "_per_second")
    for metric in SHOWN:
        assert metric.name.startswith("mralign_")
        assert metric.name.endswith(units)
        assert metric.adds == metric.name.endswith("_total")
    assert WAITING.tags == ("stage",)


def test_prometheus_reads_the_rules_and_the_pods_are_those_that_the_policy_lets_it_reach():
    told = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert [(MONITORING / name).is_file() for name in told["rule_files"]] == [True]
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    policy = yaml.safe_load((MONITORING.parent / "kuberay/namespace/network-policy.yaml").read_text())
    assert monitor["spec"]["selector"] == policy["spec"]["podSelector"]


def test_panels_do_not_lie_over_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
