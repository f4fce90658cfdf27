"""Every setting of the service, read once from the environment (prefix `EOLGUL_`)."""

from __future__ import annotations

import os
from pathlib import Path

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

    redis_url: str = Field(default="", description="the embedding cache, redis://host:port/db; empty for no cache")
    redis_timeout_s: float = Field(
        default=0.05, gt=0, description="seconds Redis may take before an answer is made without it"
    )
    redis_pause_s: float = Field(default=1.0, ge=0, description="seconds Redis is left alone after it failed")
    cache_ttl_s: int = Field(default=24 * 3600, gt=0, description="seconds an embedding stays in the cache")

    max_image_bytes: int = Field(default=10 * MIB, gt=0, description="bytes of one encoded image")
    max_image_pixels: int = Field(
        default=16_000_000, gt=0, description="width x height of one image, checked before decoding"
    )

    threads: int = Field(default=1, ge=1, description="ONNX Runtime threads of one inference")
    concurrency: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="images worked on at once, a thread each"
    )
    queue: int = Field(
        default=64, ge=0, description="requests that may wait beyond `concurrency`; more are answered `busy`"
    )

    def source(self) -> str:
        """Where the model comes from, in words. InputError when neither or both places are set."""
        if bool(self.registry) == bool(self.model):
            raise InputError("set either EOLGUL_REGISTRY (a registry) or EOLGUL_MODEL (a model package folder)")
        return f"registry {self.registry}" if self.registry else f"model package {self.model}"
