"""The lab behaves like AWS and real machines, as far as a sweep depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cloud import Cloud
from tests.lab.machine import ROOT

pytestmark = pytest.mark.lab

SECONDS = 60.0  # time for a machine to come or go; a longer time is a failure
SET_UP = """
import boto3, json, pathlib
ec2, iam, s3 = boto3.client("ec2"), boto3.client("iam"), boto3.client("s3")
key = pathlib.Path.home() / "key.pem"
key.write_text(ec2.create_key_pair(KeyName="k")["KeyMaterial"])
key.chmod(0o600)
vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
group = ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc)["GroupId"]
ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "198.51.100.130/32"}]}
ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
trust = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
allow = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "arn:aws:s3:::a-bucket/mine/*"}]}
iam.create_role(RoleName="writer", AssumeRolePolicyDocument=json.dumps(trust))
iam.put_role_policy(RoleName="writer", PolicyName="p", PolicyDocument=json.dumps(allow))
iam.create_instance_profile(InstanceProfileName="writer")
iam.add_role_to_instance_profile(InstanceProfileName="writer", RoleName="writer")
s3.create_bucket(Bucket="a-bucket")
print(group)
"""
LAUNCH = """
import boto3, json, sys
options = json.loads(sys.argv[1])
try:
    made = boto3.client("ec2").run_instances(**options)
except Exception as error:
    print(json.dumps({"refused": str(error)}))
else:
    print(json.dumps({"id": made["Instances"][0]["InstanceId"]}))
"""
PUT = "import boto3, sys; boto3.client('s3', region_name='us-east-1').put_object(Bucket='a-bucket', Key=sys.argv[1])"
TOKEN = "curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"


@pytest.fixture(scope="module")
def group(cloud: Cloud) -> str:
    """Make a key pair, a bucket, a role for half of the bucket, and a security group for SSH.

    Returns:
        The id of the security group.
    """
    done = cloud.laptop.run(["python", "-c", SET_UP])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def launch(cloud: Cloud, group: str, **options: Any) -> dict[str, str]:
    """Launch one instance.  Returns its id, or the refusal."""
    asked = {
        "ImageId": cloud.image, "InstanceType": "m6i.large", "MinCount": 1, "MaxCount": 1, "KeyName": "k",
        "SecurityGroupIds": [group], "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"}, "IamInstanceProfile": {"Name": "writer"}, **options,
    }  # fmt: skip
    done = cloud.laptop.run(["python", "-c", LAUNCH, json.dumps(asked)])
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def ssh(cloud: Cloud, instance: str, *command: str) -> str | None:
    """Run a command over SSH as the user.  Returns its output; None without a connection."""
    (public,) = (i["public"] for i in cloud.state() if i["id"] == instance)
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=2", "LogLevel=ERROR"]
    words = [word for option in options for word in ("-o", option)]
    done = cloud.laptop.run(["ssh", "-i", "/home/me/key.pem", *words, f"ubuntu@{public}", *command])
    return done.stdout if done.returncode == 0 else None


@pytest.fixture(scope="module")
def machine(cloud: Cloud, group: str) -> str:
    """Return a machine that the user can log in to."""
    made = launch(cloud, group, UserData="#!/bin/sh\nid -un > /run/who\nhostname >> /run/who\n")["id"]
    cloud.wait(lambda: ssh(cloud, made, "true") is not None, SECONDS, "SSH answers")
    return made


def test_a_machine_takes_ssh_and_nothing_else_from_the_laptop(cloud: Cloud, machine: str) -> None:
    assert ssh(cloud, machine, "id", "-un") == "ubuntu\n"
    (of_machine,) = (i for i in cloud.state() if i["id"] == machine)
    listen = "import http.server; http.server.test(port=8000, bind='0.0.0.0')"
    assert ssh(cloud, machine, f'nohup python3 -c "{listen}" > /dev/null 2>&1 &') is not None
    local = ["curl", "-s", "-o", "/dev/null", "http://127.0.0.1:8000"]
    cloud.wait(lambda: ssh(cloud, machine, *local) is not None, SECONDS, "something listens on port 8000")
    for address in (of_machine["public"], of_machine["address"]):
        assert cloud.laptop.run(["curl", "-s", "-m", "3", f"http://{address}:8000"]).returncode != 0


def test_a_machine_does_not_see_the_checkout(cloud: Cloud, machine: str) -> None:
    for checkout in {ROOT, Path(cloud.environment).parent}:
        cloud.run(machine, "test", "!", "-e", checkout / "sweep")
    assert cloud.run(machine, f"{cloud.environment}/bin/python", "-c", "import ray; print(ray.__version__)")


def test_user_data_runs_as_root_at_the_first_boot(cloud: Cloud, machine: str) -> None:
    cloud.wait(lambda: cloud.run(machine, "sh", "-c", "cat /run/who || true"), SECONDS, "user data ran")
    assert cloud.run(machine, "cat", "/run/who").splitlines()[0] == "root"


def test_metadata_are_given_to_holders_of_a_token_alone(cloud: Cloud, machine: str) -> None:
    asked = "http://169.254.169.254/latest/meta-data/instance-id"
    assert cloud.run(machine, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", asked) == "401"
    answer = cloud.run(machine, "sh", "-c", f'curl -s -H "X-aws-ec2-metadata-token: $({TOKEN})" {asked}')
    assert answer == machine


def test_the_role_of_a_machine_may_use_its_part_of_the_bucket_and_no_more(cloud: Cloud, machine: str) -> None:
    python = f"{cloud.environment}/bin/python"
    assert ssh(cloud, machine, python, "-c", f'"{PUT}"', "mine/x") is not None
    assert ssh(cloud, machine, python, "-c", f'"{PUT}"', "yours/x") is None
    assert [e.subject for e in cloud.timeline.of("denied")] == ["writer"]
    cloud.deny_bucket("writer")
    assert ssh(cloud, machine, python, "-c", f'"{PUT}"', "mine/y") is None
    cloud.allow_bucket("writer")
    assert ssh(cloud, machine, python, "-c", f'"{PUT}"', "mine/y") is not None


def test_a_spot_notice_is_told_and_carried_out(cloud: Cloud, group: str) -> None:
    made = launch(cloud, group, InstanceMarketOptions={"MarketType": "spot"})["id"]
    cloud.wait(lambda: ssh(cloud, made, "true") is not None, SECONDS, "SSH answers")
    assert [i["market"] for i in cloud.state() if i["id"] == made] == ["spot"]
    path = "http://169.254.169.254/latest/meta-data/spot/instance-action"
    ask = f'curl -s -H "X-aws-ec2-metadata-token: $({TOKEN})" {path}'
    assert cloud.run(made, "sh", "-c", ask) == ""
    cloud.notice(made, seconds=10)
    assert json.loads(cloud.run(made, "sh", "-c", ask))["action"] == "terminate"
    cloud.wait(lambda: made not in cloud.running(), SECONDS, "the machine is reclaimed")


def test_a_network_that_is_cut_comes_back(cloud: Cloud, machine: str) -> None:
    cloud.cut_network(machine)
    assert ssh(cloud, machine, "true") is None
    cloud.join_network(machine)
    cloud.wait(lambda: ssh(cloud, machine, "true") is not None, SECONDS, "SSH answers again")


@pytest.mark.parametrize("behaviour", ["terminate", "stop"])
def test_a_shutdown_from_inside_ends_the_instance_as_it_was_asked_for(cloud: Cloud, group: str, behaviour: str) -> None:
    made = launch(cloud, group, InstanceInitiatedShutdownBehavior=behaviour)["id"]
    cloud.wait(lambda: ssh(cloud, made, "true") is not None, SECONDS, "SSH answers")
    ssh(cloud, made, "sudo", "shutdown", "-h", "now")
    cloud.wait(lambda: made not in cloud.left()["machines"], SECONDS, "the machine is off")
    (state,) = (i["state"] for i in cloud.state() if i["id"] == made)
    assert state == {"terminate": "terminated", "stop": "stopped"}[behaviour]
    if behaviour == "stop":
        assert made in cloud.left()["instances"]


def test_a_power_cut_leaves_no_process(cloud: Cloud, group: str) -> None:
    made = launch(cloud, group)["id"]
    cloud.wait(lambda: ssh(cloud, made, "nohup sleep 4321 > /dev/null 2>&1 &") is not None, SECONDS, "SSH answers")
    cloud.cut_power(made)
    cloud.wait(lambda: made not in cloud.left()["machines"], SECONDS, "the machine is off")
    assert made not in cloud.left()["instances"]


def test_a_zone_without_capacity_refuses(cloud: Cloud, group: str) -> None:
    cloud.capacity("any", "g5.xlarge", "spot", 0)
    spot = launch(cloud, group, InstanceType="g5.xlarge", InstanceMarketOptions={"MarketType": "spot"})
    assert "InsufficientInstanceCapacity" in spot["refused"]
    cloud.capacity("any", "g5.xlarge", "spot", 1)
    first, second = (
        launch(cloud, group, InstanceType="g5.xlarge", InstanceMarketOptions={"MarketType": "spot"}) for _ in "12"
    )
    assert "id" in first and "refused" in second
    cloud.capacity("any", "g5.xlarge", "spot", None)


def test_expired_credentials_are_refused(cloud: Cloud) -> None:
    ask = ["python", "-c", "import boto3; boto3.client('ec2').describe_instances()"]
    cloud.expire_credentials()
    done = cloud.laptop.run(ask)
    cloud.renew_credentials()
    assert done.returncode != 0 and "RequestExpired" in done.stderr
    assert cloud.laptop.run(ask).returncode == 0


def test_what_is_left_is_counted(cloud: Cloud, machine: str) -> None:
    left = cloud.left()
    assert machine in left["instances"] and left["key pairs"] == ["k"] and left["security groups"] == ["g"]
    assert len(left["volumes"]) == len(left["instances"])
