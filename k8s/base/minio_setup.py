"""Make the bucket and the accounts in MinIO. Run as often as you like: what is there already stays or is set again.

The service may read models, the pipeline may read and write the bucket, and nobody but this script is root.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import urllib3
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider


def policy(registry: str, *, write: bool) -> dict[str, Any]:
    """The rights of an account: all of the bucket with `write`, else what serving reads of the registry in it."""
    bucket, _, key = registry.removeprefix("s3://").partition("/")
    below = f"arn:aws:s3:::{bucket}/" + (f"{key.strip('/')}/" if key.strip("/") else "")
    # Listing is of the whole bucket in both: without it S3 answers "forbidden" and not "no such key", and a registry
    # that is merely empty could not be told from one that is locked.
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
            "Resource": [f"{below}models/*", f"{below}production.json"],
        }
    return {"Version": "2012-10-17", "Statement": [listing, objects]}


def main() -> None:
    """Read where and who from the environment, and set it up."""
    endpoint, registry = os.environ["EOLGUL_S3_ENDPOINT"], os.environ["EOLGUL_REGISTRY"]
    secure = os.environ["EOLGUL_S3_SECURE"].lower() == "true"
    region = os.environ["EOLGUL_S3_REGION"]
    root = StaticProvider(os.environ["MINIO_ROOT_USER"], os.environ["MINIO_ROOT_PASSWORD"])
    bucket = registry.removeprefix("s3://").partition("/")[0]
    names = [os.environ[name] for name in ("MINIO_ROOT_USER", "SERVING_S3_ACCESS_KEY", "PIPELINE_S3_ACCESS_KEY")]
    if len(set(names)) < len(names):  # the later account's rights would silently become the earlier one's
        sys.exit("minio-setup: root, the service and the pipeline need names that differ")

    # Short, for the SDK's own patience is longer than this job's; what fails here is tried again by Kubernetes.
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=30), retries=urllib3.Retry(2, backoff_factor=0.5)
    )
    client = Minio(endpoint=endpoint, credentials=root, secure=secure, region=region, http_client=pool)
    if not client.bucket_exists(bucket_name=bucket):
        client.make_bucket(bucket_name=bucket)
    print(f"bucket {bucket}: there", flush=True)

    admin = MinioAdmin(endpoint=endpoint, credentials=root, secure=secure, region=region, http_client=pool)
    for who, write in (("serving", False), ("pipeline", True)):
        name = f"eolgul-{who}"
        access_key = os.environ[f"{who.upper()}_S3_ACCESS_KEY"]
        admin.policy_add(name, policy=policy(registry, write=write))
        admin.user_add(access_key, os.environ[f"{who.upper()}_S3_SECRET_KEY"])
        # Replaces whatever policies the account had; attaching one that is attached already would be an error.
        admin.policy_set(name, user=access_key)
        print(f"account of {who}: {'reads and writes the bucket' if write else 'reads models'}", flush=True)


if __name__ == "__main__":
    main()
