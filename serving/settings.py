"""The settings of the service, read once from the environment (prefix `EOLGUL_`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul.errors import InputError
from eolgul.model.recognizer import execution_providers
from eolgul.workers import usable_cpus

MIB = 1 << 20
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?", re.IGNORECASE)


class Settings(BaseSettings):
    """The settings of the service. `EOLGUL_REGISTRY` or `EOLGUL_MODEL` is required; all others have defaults."""

    model_config = SettingsConfigDict(env_prefix="EOLGUL_", extra="ignore", frozen=True, env_ignore_empty=True)

    registry: str = Field(
        default="", description="model registry, s3://bucket/key or a folder; its production model is served"
    )
    model: Path | None = Field(default=None, description="ModelPackage folder to serve, instead of a registry's model")
    retry_s: float = Field(
        default=5.0, gt=0, description="seconds until another attempt to load a model that could not be loaded"
    )

    follow_s: float = Field(
        default=10.0,
        gt=0,
        description="seconds between two reads of the registry's pointer; another model replaces the served one",
    )
    trusted_keys_file: Path | None = Field(
        default=None, description="file of public keys; if set, a registry's model needs a signature by one of them"
    )
    undecided: bool = Field(
        default=True,
        description="answer `undecided` inside the 95 % interval of the threshold; if off: same or different",
    )

    quality_rule: bool = Field(
        default=True,
        description="answer `undecided` with reasons, without a rate, and refuse to enroll, where a photo lies outside the picture "
        "quality in which the model's false match rate holds; if off: blurred strangers may be told to be one person",
    )

    wait: bool = Field(
        default=False,
        description="wait, with /readyz 503 and the reason, for key files that are missing or not valid, and for a first model; if off: "
        "end with one sentence. `eolgul serve` sets it, see `--wait`",
    )

    auth: Literal["on", "off"] = Field(default="on", description="whether /v1 requires an API key")
    api_keys_file: Path | None = Field(
        default=None, description="file of API keys (their hashes), as `eolgul key` writes it"
    )
    requests_per_minute: int = Field(
        default=600, ge=0, description="limit of a key that has none of its own; 0: no limit"
    )
    encryption_keys_file: Path | None = Field(
        default=None,
        description="file of keys that encrypt cache and gallery; if unset: a random key per process, and the gallery is off",
    )
    gallery_url: str = Field(
        default="",
        description="Redis of the gallery (append-only file on, no eviction), redis:// or redis+sentinel://; if empty: no gallery",
    )
    gallery_timeout_s: float = Field(default=1.0, gt=0, description="seconds until a call to the gallery's Redis fails")
    gallery_people: int = Field(default=100_000, gt=0, description="largest number of people per tenant")
    gallery_memory_mb: int = Field(
        default=1_100,
        gt=0,
        description="megabytes for templates in memory, 1.05 for 1,000 of 512 numbers; beyond it the tenants searched longest ago "
        "are dropped, but never the one being searched",
    )
    audit_log: Path | None = Field(default=None, description="file for the audit log; if unset: the service's log")

    redis_url: str = Field(
        default="", description="Redis of the embedding cache, redis:// or redis+sentinel://; if empty: no cache"
    )
    redis_username: str = Field(default="", description="ACL user in both Redis servers; if empty: the default user")
    redis_password_file: Path | None = Field(default=None, description="file with the password for both Redis servers")
    redis_ca_file: Path | None = Field(
        default=None, description="file of certificate authorities for rediss:// addresses"
    )
    redis_timeout_s: float = Field(
        default=0.05,
        gt=0,
        description="seconds until a call to the cache's Redis fails, and the service answers without it",
    )
    redis_pause_s: float = Field(default=1.0, ge=0, description="seconds without calls to a Redis that failed")
    cache_ttl_s: int = Field(default=24 * 3600, gt=0, description="seconds that an embedding stays in the cache")

    max_image_bytes: int = Field(default=10 * MIB, gt=0, description="largest size of one encoded image, in bytes")
    max_image_pixels: int = Field(
        default=50_000_000,
        gt=0,
        description="largest width x height of one image, checked before decoding. Above 25 million, JPEG and HEIF are read at half "
        "their width and height and other formats refused",
    )

    cors_origins: str = Field(
        default="",
        description="web pages of other origins that may call /v1 from a browser, such as https://shop.example, separated by "
        "commas; if empty: none",
    )

    max_comparisons: int = Field(
        default=32,
        ge=1,
        le=256,
        description="largest number of images in `others` of one request to verify/many, and of `images` of one to embed/many",
    )

    max_faces: int = Field(
        default=32,
        ge=1,
        le=256,
        description="largest number of faces of one photo with `which=all`; more are refused with `too_many_faces`",
    )

    provider: Literal["cpu", "cuda"] = Field(default="cpu", description="ONNX Runtime provider of the recognizer")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="number of processes, each with its own model, `concurrency` and `queue`; without Redis each has its own count of "
        "request rates",
    )
    threads: int = Field(default=1, ge=1, description="ONNX Runtime threads of one inference")
    concurrency: int = Field(
        default_factory=usable_cpus,
        ge=1,
        description="images processed at the same time, one thread per image; default: the CPUs that this process may use",
    )
    queue: int = Field(
        default=64,
        ge=0,
        description="requests that may wait in addition to `concurrency`; further ones are answered `busy`",
    )

    embed_batch: int = Field(
        default=0,
        ge=0,
        description="faces that are embedded in one run; 0: all of a batch or one by one, whichever a measurement at the start "
        "finds to be faster",
    )
    max_batch: int = Field(
        default=4, ge=1, description="largest number of waiting images that one thread processes together"
    )
    deadline_s: float = Field(default=20.0, gt=0, description="seconds until a request is answered `timeout`")
    drain_s: float = Field(
        default=5.0,
        ge=0,
        description="seconds after SIGTERM during which requests are still accepted while /readyz answers 503",
    )

    def origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`.

        Raises:
            InputError: One of them is no origin.
        """
        found = tuple(one.strip().rstrip("/") for one in self.cors_origins.split(",") if one.strip())
        for one in found:
            if not _ORIGIN.fullmatch(one):
                raise InputError(
                    f"EOLGUL_CORS_ORIGINS: {one!r} is no origin, expected https://host or https://host:port"
                )
        return found

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of the provider and its fallback.

        Raises:
            InputError: This ONNX Runtime does not have the provider.
        """
        return execution_providers(self.provider, "EOLGUL_PROVIDER")

    def source(self) -> str:
        """A description of where the model comes from. InputError if neither or both of registry and model are set."""
        if bool(self.registry) == bool(self.model):
            raise InputError("set either EOLGUL_REGISTRY (a registry) or EOLGUL_MODEL (a model package folder)")
        return f"registry {self.registry}" if self.registry else f"model package {self.model}"
