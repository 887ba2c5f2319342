"""The files for `ray up`: Ray's own schema, its own choice between spot and on demand, and what must agree."""

import copy
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FILES = ("aws.yaml", "gcp.yaml")


def read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_the_file(name):
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "max_worker", 3),
        (("docker",), "imag", "x"),
        (("available_node_types", "cpu"), "resources", {"CPU": "many"}),
    ],
)
def test_a_mistake_is_noticed(name, place, key, value):
    wrong = read(name)
    node = wrong
    for step in place:
        node = node[step]
    node[key] = value
    with pytest.raises(Exception, match=r"Additional properties|not of type"):
        validate_config(prepare_config(wrong))


def launched(config, *, gpus, availability):
    """The nodes that Ray's scheduler would start for requests of one GPU each."""
    prepared = prepare_config(copy.deepcopy(config))
    types = AutoscalingConfig(prepared, skip_content_hash=True).get_node_type_configs()
    wanted = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1, "CPU": 1})] * gpus)
    requests = [ResourceRequestByCount(request=one.request, count=one.count) for one in wanted]
    reply = ResourceDemandScheduler(event_logger=None).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types,
            max_num_nodes=config["max_workers"] + 1,
            resource_requests=requests,
            recoverable_resource_availabilities=availability,
        )
    )
    return {one.instance_type: one.count for one in reply.to_launch if one.instance_type != config["head_node_type"]}


@pytest.mark.parametrize("name", FILES)
def test_spot_is_taken_first_and_on_demand_where_there_is_none(name):
    config = read(name)
    assert launched(config, gpus=8, availability={}) == {"gpu-spot": 2}
    assert launched(config, gpus=8, availability={"gpu-spot": 0.0}) == {"gpu-on-demand": 2}
    assert launched(config, gpus=20, availability={}) == {"gpu-spot": 4, "gpu-on-demand": 1}


def test_what_is_spot_is_bought_as_spot():
    for name, field, spot in (
        ("aws.yaml", "InstanceMarketOptions", {"MarketType": "spot"}),
        ("gcp.yaml", "scheduling", "SPOT"),
    ):
        kinds = read(name)["available_node_types"]
        told = kinds["gpu-spot"]["node_config"][field]
        assert told == spot or told["provisioningModel"] == spot
        for kind in ("head", "cpu", "gpu-on-demand"):
            assert "spot" not in str(kinds[kind]["node_config"].get(field, "")).lower()


@pytest.mark.parametrize("name", FILES)
def test_workers_come_with_the_work_and_are_gone_for_good(name):
    config = read(name)
    kinds = config["available_node_types"]
    workers = {kind: told for kind, told in kinds.items() if kind != config["head_node_type"]}
    assert all(told["min_workers"] == 0 < told["max_workers"] for told in workers.values())
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert config["provider"]["cache_stopped_nodes"] is False
    assert config["idle_timeout_minutes"] <= 10
    assert config["max_workers"] >= max(told["max_workers"] for told in workers.values())


@pytest.mark.parametrize("name", FILES)
def test_tokens_are_on_and_no_port_is_open(name):
    config = read(name)
    options = dict(shlex.split(one)[1].split("=", 1) for one in config["docker"]["run_options"] if "--env" in one)
    assert options["RAY_AUTH_MODE"] == "token"
    (target,) = config["file_mounts"]
    assert Path(options["RAY_AUTH_TOKEN_PATH"]).parent == Path(target)
    assert target.startswith("/home/mralign/")
    starts = [one for one in config["head_start_ray_commands"] if "ray start" in one]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    for one in [*starts, *(c for c in config["worker_start_ray_commands"] if "ray start" in c)]:
        assert ". ~/.mralign/keys.env" in one
        assert not {"--redis-password", "RAY_AUTH_TOKEN="} & set(one.split())


@pytest.mark.parametrize("name", FILES)
def test_the_head_installs_the_clients_of_its_cloud_pinned(name):
    config = read(name)
    (line,) = config["head_setup_commands"]
    package = {"aws": "boto3", "gcp": "google-api-python-client"}[config["provider"]["type"]]
    words = shlex.split(line)
    assert words[:3] == ["pip", "install", "--user"]
    assert words[3].startswith(f"{package}==")


def test_the_image_of_both_is_that_of_the_dockerfile():
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text())["project"]["name"]
    assert {read(name)["docker"]["image"] for name in FILES} == {f"YOUR_REGISTRY/{project}:gpu"}
