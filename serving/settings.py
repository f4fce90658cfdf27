"""Every setting of the service, read once from the environment (prefix `EOLGUL_`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul.errors import InputError

MIB = 1 << 20


class Settings(BaseSettings):
    """What an operator may choose. `EOLGUL_REGISTRY` or `EOLGUL_MODEL` is needed, the rest has defaults."""

    model_config = SettingsConfigDict(env_prefix="EOLGUL_", extra="ignore", frozen=True, env_ignore_empty=True)

    registry: str = Field(
        default="", description="the model registry, s3://bucket/key or a folder; its production model is served"
    )
    model: Path | None = Field(
        default=None, description="a ModelPackage folder to serve as it is, instead of a registry's"
    )
    retry_s: float = Field(
        default=5.0, gt=0, description="seconds between two tries to load a model that could not be loaded"
    )

    follow_s: float = Field(
        default=10.0,
        gt=0,
        description="seconds between two looks at the registry's pointer; another model is swapped in",
    )
    trusted_keys_file: Path | None = Field(
        default=None, description="public keys; a registry's model must then carry a signature by one of them"
    )
    undecided: bool = Field(
        default=True, description="answer `undecided` inside the 95 % interval of the threshold; off: same or different"
    )

    auth: Literal["on", "off"] = Field(default="on", description="whether /v1 asks for an API key")
    api_keys_file: Path | None = Field(default=None, description="the API keys (hashes), as `eolgul key` writes them")
    requests_per_minute: int = Field(default=600, ge=0, description="of a key that states none itself; 0: no limit")
    encryption_keys_file: Path | None = Field(
        default=None, description="keys for cache and gallery; none: a random one a process, and no gallery"
    )
    gallery_url: str = Field(
        default="", description="the gallery's Redis (append-only file on, no eviction); empty for no gallery"
    )
    gallery_timeout_s: float = Field(default=1.0, gt=0, description="seconds the gallery's Redis may take")
    gallery_people: int = Field(default=100_000, gt=0, description="people of one tenant")
    audit_log: Path | None = Field(default=None, description="file for the audit log; none: the service's log")

    redis_url: str = Field(default="", description="the embedding cache, redis://host:port/db; empty for no cache")
    redis_username: str = Field(default="", description="ACL user of both Redis; empty for the default one")
    redis_password_file: Path | None = Field(default=None, description="file with the password of both Redis")
    redis_ca_file: Path | None = Field(default=None, description="certificate authorities for rediss:// addresses")
    redis_timeout_s: float = Field(
        default=0.05, gt=0, description="seconds Redis may take before an answer is made without it"
    )
    redis_pause_s: float = Field(default=1.0, ge=0, description="seconds Redis is left alone after it failed")
    cache_ttl_s: int = Field(default=24 * 3600, gt=0, description="seconds an embedding stays in the cache")

    max_image_bytes: int = Field(default=10 * MIB, gt=0, description="bytes of one encoded image")
    max_image_pixels: int = Field(
        default=16_000_000, gt=0, description="width x height of one image, checked before decoding"
    )

    max_comparisons: int = Field(default=32, ge=1, le=256, description="images that one is verified against at once")

    provider: Literal["cpu", "cuda"] = Field(default="cpu", description="ONNX Runtime's provider for the recognizer")
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="processes, each with its own model, `concurrency` and `queue`; without Redis each counts rates alone",
    )
    threads: int = Field(default=1, ge=1, description="ONNX Runtime threads of one inference")
    concurrency: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="images worked on at once, a thread each"
    )
    queue: int = Field(
        default=64, ge=0, description="requests that may wait beyond `concurrency`; more are answered `busy`"
    )

    max_batch: int = Field(default=4, ge=1, description="waiting images that one thread gives to the networks together")
    deadline_s: float = Field(default=20.0, gt=0, description="seconds after which a request is answered `timeout`")
    drain_s: float = Field(
        default=5.0,
        ge=0,
        description="seconds after SIGTERM in which requests are still accepted while /readyz says 503",
    )

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names, the wanted one first. InputError where this ONNX Runtime has no CUDA: it would take the
        processor and say so in a warning only."""
        if self.provider == "cpu":
            return ("CPUExecutionProvider",)
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise InputError(
                "EOLGUL_PROVIDER=cuda: this ONNX Runtime has no CUDA; install onnxruntime-gpu in its place"
            )
        return ("CUDAExecutionProvider", "CPUExecutionProvider")

    def source(self) -> str:
        """Where the model comes from, in words. InputError when neither or both places are set."""
        if bool(self.registry) == bool(self.model):
            raise InputError("set either EOLGUL_REGISTRY (a registry) or EOLGUL_MODEL (a model package folder)")
        return f"registry {self.registry}" if self.registry else f"model package {self.model}"
