"""What the place `cloud` writes, against SkyPilot itself in its dry-run mode: without network, with a catalog of two machines."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fine_tune_pipeline.resources.compute.cloud import Cloud
from fine_tune_pipeline.resources.compute.sky import Refused, Sky
from fine_tune_pipeline_tests.resources.compute.test_cloud import task_of

pytestmark = [pytest.mark.skypilot, pytest.mark.timeout(300)]

MACHINES = """InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Price,SpotPrice,Region
gpu_1x_a10,30.0,200.0,A10,1.0,"{'Gpus': [{'Name': 'A10', 'Count': 1.0, 'MemoryInfo': {'SizeInMiB': 24576}}]}",0.75,,us-east-1
gpu_1x_a100,30.0,200.0,A100,1.0,"{'Gpus': [{'Name': 'A100', 'Count': 1.0, 'MemoryInfo': {'SizeInMiB': 40960}}]}",1.29,,us-east-1
"""

# SkyPilot asks each cloud at its start whether our credentials are good; here it is told what it had found.
ENABLE = """
from sky import check, global_user_state
from sky.clouds import cloud
from sky.skylet import constants
workspace = constants.SKYPILOT_DEFAULT_WORKSPACE
for capability in cloud.CloudCapability:
    global_user_state.set_enabled_clouds(["Lambda"], capability, workspace)
global_user_state.set_allowed_clouds(check._get_workspace_allowed_clouds(workspace), workspace)
"""


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sky]:
    """SkyPilot with a home of its own, where one cloud is set up."""
    path, home = Path(os.environ["FINE_TUNE_PIPELINE_SKY"]), tmp_path_factory.mktemp("sky")
    catalogs = home / ".sky" / "catalogs" / "v8"
    for name, content in {
        "lambda/vms.csv": MACHINES,
        "common/accelerators.csv": "AcceleratorName,Clouds\nA10,lambda\nA100,lambda\n",
    }.items():
        (catalogs / name).parent.mkdir(parents=True)
        (catalogs / name).write_text(content, encoding="utf-8")
    # It looks for rsync even when nothing is sent.
    rsync = home / "bin" / "rsync"
    rsync.parent.mkdir()
    rsync.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    rsync.chmod(0o755)
    before = dict(os.environ)
    os.environ.update(HOME=str(home), PATH=f"{rsync.parent}:{before['PATH']}", SKYPILOT_DISABLE_USAGE_COLLECTION="1")
    try:
        subprocess.run([path, "api", "start"], check=True, stdin=subprocess.DEVNULL)
        # Its own look at our credentials, which finds none, has to be over.
        subprocess.run([path, "check"], check=False, stdin=subprocess.DEVNULL)
        subprocess.run([path.with_name("python"), "-c", ENABLE], check=True)
        yield Sky(str(path))
    finally:
        subprocess.run([path, "api", "stop"], check=True, stdin=subprocess.DEVNULL)
        os.environ.clear()
        os.environ.update(before)


def cloud(**settings: object) -> Cloud:
    return Cloud(**{"staging": "s3://bucket/shelf", "infra": "lambda", "accelerator": "A10", "gpus": 1, "spot": False, **settings})


def test_skypilot_takes_our_task_and_names_the_machine_and_its_price(sky: Sky, tmp_path: Path):
    offer = sky.offer(task_of(cloud(price_limit_per_hour=2, setup="pip install x", disk_gib=200), tmp_path), ())
    assert "gpu_1x_a10" in offer.table
    assert offer.usd_per_hour == 0.75


def test_skypilot_says_that_nothing_is_below_the_limit(sky: Sky, tmp_path: Path):
    with pytest.raises(Refused, match="Max hourly cost limit"):
        sky.offer(task_of(cloud(price_limit_per_hour=0.5), tmp_path), ())


def test_skypilot_has_no_jobs_yet(sky: Sky):
    assert sky.jobs("train-0123456789abcdef") == []


def test_a_type_that_no_cloud_has_is_said_before_anything_is_rented(sky: Sky, tmp_path: Path):
    with pytest.raises(Refused, match="A1000"):
        sky.offer(task_of(cloud(accelerator="A1000", gpu_memory_gib=8), tmp_path), ())
