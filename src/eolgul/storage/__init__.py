"""Local paths and S3 (MinIO and others) behind one small interface.

Steps are functions of local paths. `fetch` copies an `s3://bucket/key` folder to the local disk before a step, and
`destination` publishes the artifact that the step made, the card last: an S3 prefix that has its card is whole.
"""

from eolgul.storage.download import fetch
from eolgul.storage.s3 import (
    S3Settings,
    exists,
    forget_settings,
    is_s3,
    join,
    list_names,
    make_bucket,
    read_bytes,
    write_bytes,
)
from eolgul.storage.upload import destination, publish

__all__ = [
    "S3Settings",
    "destination",
    "exists",
    "fetch",
    "forget_settings",
    "is_s3",
    "join",
    "list_names",
    "make_bucket",
    "publish",
    "read_bytes",
    "write_bytes",
]
