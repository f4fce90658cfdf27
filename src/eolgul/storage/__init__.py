"""Local paths and S3 (MinIO and others) behind one small interface.

Steps are functions of local paths. `fetch` copies an `s3://bucket/key` folder to the local disk before a step, and
`destination` publishes the artifact that the step made, the card last: an S3 prefix that has its card is whole.
`put_if_absent` and `add_artifact` are for things that several writers may make at once.
"""

from eolgul.storage.conditional import add_artifact, put_if_absent, remove_below, remove_object
from eolgul.storage.download import fetch
from eolgul.storage.far import FarFile
from eolgul.storage.mirror import mirror
from eolgul.storage.s3 import (
    S3Settings,
    cache_place,
    describe,
    exists,
    forget_settings,
    is_object,
    is_s3,
    join,
    list_names,
    make_bucket,
    read_bytes,
    write_bytes,
)
from eolgul.storage.upload import destination, publish

__all__ = [
    "FarFile",
    "S3Settings",
    "add_artifact",
    "cache_place",
    "describe",
    "destination",
    "exists",
    "fetch",
    "forget_settings",
    "is_object",
    "is_s3",
    "join",
    "list_names",
    "make_bucket",
    "mirror",
    "publish",
    "put_if_absent",
    "read_bytes",
    "remove_below",
    "remove_object",
    "write_bytes",
]
