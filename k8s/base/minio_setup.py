"""Create the bucket and the accounts in MinIO. Running it again keeps or resets what exists.

The service's account may read models, the pipeline's account may read and write the bucket; only this script uses root.
An account that this script made and that the Secret no longer names is removed: after a rotation the old key opens nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import S3Error, ServerError

WAIT_S = 240.0  # less than the Job's activeDeadlineSeconds
POLICIES = {"eolgul-serving": ("serving", False), "eolgul-pipeline": ("pipeline", True)}  # name: account, may write


def policy(registry: str, *, write: bool) -> dict[str, Any]:
    """The S3 policy of an account: the whole bucket with `write`, otherwise the objects of the registry that serving reads."""
    bucket, _, key = registry.removeprefix("s3://").partition("/")
    below = f"arn:aws:s3:::{bucket}/" + (f"{key.strip('/')}/" if key.strip("/") else "")
    # Both may list the whole bucket: without that right S3 answers "forbidden" instead of "no such key", so that an empty
    # registry would look like a forbidden one.
    listing = {
        "Effect": "Allow",
        "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
        "Resource": [f"arn:aws:s3:::{bucket}"],
    }
    if write:
        actions = [
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:AbortMultipartUpload",
            "s3:ListMultipartUploadParts",
        ]
        objects = {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    else:
        objects = {
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [f"{below}models/*", f"{below}signatures/*", f"{below}production.json"],
        }
    return {"Version": "2012-10-17", "Statement": [listing, objects]}


def superseded(users: dict[str, dict[str, Any]], named: set[str]) -> list[str]:
    """The accounts to remove: those with one of this script's policies and no other, that are not named any more.

    MinIO keeps no note of who made an account. Nobody else attaches these two policies, which exist for these two accounts;
    one that has further policies belongs to somebody who gave it those.
    """
    return sorted(name for name, user in users.items() if name not in named and user.get("policyName") in POLICIES)


def exists(client: Minio, bucket: str) -> bool:
    """Whether the bucket exists, asked until the store answers: on a first deploy this Job starts before it."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return client.bucket_exists(bucket_name=bucket)
        except (urllib3.exceptions.HTTPError, S3Error, ServerError) as error:
            starting = not isinstance(error, S3Error) or error.code in ("XMinioServerNotInitialized", "SlowDown")
            if not starting or time.monotonic() > until:
                raise
            print(f"the store does not answer yet ({type(error).__name__})", flush=True)
            time.sleep(2)


def main(bucket_only: bool = False) -> None:
    """Create the bucket and both accounts that the environment names; with `bucket_only` a store makes its accounts itself."""
    endpoint, registry = os.environ["EOLGUL_S3_ENDPOINT"], os.environ["EOLGUL_REGISTRY"]
    secure = os.environ["EOLGUL_S3_SECURE"].lower() == "true"
    region = os.environ["EOLGUL_S3_REGION"]
    root = StaticProvider(os.environ["MINIO_ROOT_USER"], os.environ["MINIO_ROOT_PASSWORD"])
    bucket = registry.removeprefix("s3://").partition("/")[0]
    names = [os.environ[name] for name in ("MINIO_ROOT_USER", "SERVING_S3_ACCESS_KEY", "PIPELINE_S3_ACCESS_KEY")]
    if len(set(names)) < len(names):  # or the second account would get the rights of both
        sys.exit("minio-setup: root, the service and the pipeline need three different account names")

    # The SDK's default retries last longer than this job may; Kubernetes tries again what fails here.
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=30), retries=urllib3.Retry(2, backoff_factor=0.5)
    )
    client = Minio(endpoint=endpoint, credentials=root, secure=secure, region=region, http_client=pool)
    if not exists(client, bucket):
        client.make_bucket(bucket_name=bucket)
    print(f"bucket {bucket} exists", flush=True)
    if bucket_only:
        return

    admin = MinioAdmin(endpoint=endpoint, credentials=root, secure=secure, region=region, http_client=pool)
    for name, (who, write) in POLICIES.items():
        access_key = os.environ[f"{who.upper()}_S3_ACCESS_KEY"]
        admin.policy_add(name, policy=policy(registry, write=write))
        admin.user_add(access_key, os.environ[f"{who.upper()}_S3_SECRET_KEY"])
        # Replaces the account's policies; attaching a policy that is attached already would be an error.
        admin.policy_set(name, user=access_key)
        print(f"account for {who}: {'reads and writes the bucket' if write else 'reads models'}", flush=True)
    users = json.loads(admin.user_list() or "{}")
    for old in superseded(users, set(names)):
        admin.user_remove(old)
        print(f"account {old[:4]}…, no longer named, is removed", flush=True)


if __name__ == "__main__":
    main(bucket_only=sys.argv[1:] == ["--bucket-only"])
