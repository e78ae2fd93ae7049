"""Settings: built-in defaults < `reviewmill.toml` < environment (`REVIEWMILL_*`) < arguments.

`Settings()` reads them all. The file is looked for at `$REVIEWMILL_CONFIG`, else `./reviewmill.toml`, else
`reviewmill.toml` in the user's configuration folder; the first that exists is used whole.

The service's own settings are the table `[service]` of the file, and `REVIEWMILL_SERVICE__PORT` and the like; the
chat's are `[chat]` and `REVIEWMILL_CHAT__PORT`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from reviewmill.errors import SettingsError

DEFAULT_MODEL = "qwen2.5-coder-1.5b-instruct-q4_k_m"
"""The embedded default: a catalog name (see `models/catalog.toml`)."""


def config_file() -> Path | None:
    """The settings file in use, or None."""
    named = os.environ.get("REVIEWMILL_CONFIG")
    if named:
        if not Path(named).is_file():
            raise SettingsError(
                f"REVIEWMILL_CONFIG names {named}, which is not a file.",
                hint="Create it, or unset REVIEWMILL_CONFIG.",
            )
        return Path(named)
    candidates = [Path("reviewmill.toml"), platformdirs.user_config_path("reviewmill") / "reviewmill.toml"]
    return next((path for path in candidates if path.is_file()), None)


class ServiceSettings(BaseModel):
    """What `reviewmill serve` needs beside the rest: where it listens, what it keeps, and what it refuses."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0: any free one")
    public_url: str | None = Field(
        default=None, pattern=r"^https?://[^\s/?#]+[^\s?#]*$", description="what clients call this service, for links"
    )
    database: SecretStr = Field(
        default=SecretStr("sqlite"), description="sqlite (a file in data_dir), sqlite:///PATH, or postgresql://…"
    )
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reviewmill") / "service",
        description="where the database and the files of jobs are kept",
    )
    tasks_dir: Path | None = Field(default=None, description="a folder of more task files")

    no_auth: bool = Field(default=False, description="let everybody in; only on a loopback address")
    rate_per_minute: int | None = Field(default=None, ge=1, description="comments a minute, for keys without a rate")
    daily_quota: int | None = Field(default=None, ge=1, description="comments a day, for keys without a quota")
    cors_origins: list[str] = Field(default=[], description="web origins whose pages may call the service")

    queue: int = Field(default=256, ge=0, le=100_000, description="single comments that may wait for the model")
    max_comments: int = Field(default=256, ge=1, le=10_000, description="comments of one request")
    max_body_bytes: int = Field(default=2_000_000, ge=1_000, description="bytes of one request, uploads apart")
    max_upload_bytes: int = Field(default=200_000_000, ge=1_000, description="bytes of one uploaded file")
    max_rows: int = Field(default=2_000_000, ge=1, description="rows of one uploaded file")
    max_columns: int = Field(default=1_000, ge=1, description="columns of one uploaded file")
    header_timeout_s: float = Field(default=10.0, gt=0, description="seconds until a request's head must be complete")
    body_timeout_s: float = Field(default=60.0, gt=0, description="seconds until a request's body must be complete")
    upload_timeout_s: float = Field(default=600.0, gt=0, description="the same for an uploaded file")

    job_workers: int = Field(default=1, ge=0, le=64, description="jobs worked on at once; 0: none")
    lease_s: float = Field(default=30.0, ge=1, description="seconds after which a silent worker's job is taken over")
    retention_days: float = Field(default=30.0, gt=0, description="days that an ended job and its files are kept")

    link_days: float = Field(default=7.0, gt=0, le=3650, description="days that a link to a result is good for")

    log_texts: bool = Field(default=False, description="write comments into the log")


class ChatSettings(BaseModel):
    """What `reviewmill chat` needs: where Open WebUI listens, and where it and its data are kept."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="address that Open WebUI listens on")
    port: int = Field(default=3000, ge=1, le=65535, description="port that Open WebUI listens on")
    url: str | None = Field(
        default=None, pattern=r"^https?://[^\s/?#]+[^\s?#]*$", description="what people's browsers call the chat"
    )
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reviewmill") / "chat",
        description="where Open WebUI is installed, and its accounts and chats are kept",
    )
    python: str | None = Field(default=None, description="a Python 3.11 or 3.12 for Open WebUI; none: looked for")
    admin_email: str = Field(default="admin@localhost", min_length=3, description="name of the first administrator")
    environment: dict[str, str] = Field(default={}, description="further variables for Open WebUI (LDAP, OAuth, …)")
    thumbs_s: float = Field(default=15.0, ge=1, le=3600, description="seconds from one look at new thumbs to the next")


class EndpointSettings(BaseModel):
    """One endpoint of a pool."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(min_length=1, description="URL of an OpenAI-compatible server, or `embedded`")
    kind: Literal["gpu", "cpu", "npu"] | None = Field(
        default=None, description="what computes there: a first guess of its speed, until it is measured"
    )
    weight: float = Field(
        default=1.0, gt=0, le=1, description="share of what it can do that is used; the rest is left to others"
    )
    model: str | None = Field(default=None, description="the model's name there; none: as `model`")
    api_key: SecretStr | None = Field(default=None, description="key for this endpoint; none: as `api_key`")
    concurrency: int | None = Field(default=None, ge=1, le=4096, description="requests in flight; none: found")


class Settings(BaseSettings):
    """Everything that can be set once for all commands. Unknown keys in the file are errors."""

    model_config = SettingsConfigDict(
        env_prefix="REVIEWMILL_", env_ignore_empty=True, env_nested_delimiter="__", extra="forbid"
    )

    endpoint: str | None = Field(None, description="URL of an OpenAI-compatible server; none: see `engine`")
    engine: Literal["auto", "embedded", "vllm"] = Field(
        "auto",
        description="without an endpoint: embedded, the vLLM of `reviewmill engine`, or that if it runs",
    )
    endpoints: list[EndpointSettings] = Field(
        [], description="several servers that share the work, in place of `endpoint`; see `EndpointSettings`"
    )
    mixed: bool = Field(False, description="let endpoints with different models share the work")
    hedge: bool = Field(True, description="at a run's end, ask a faster endpoint too where one is slow")
    model: str = Field(DEFAULT_MODEL, description="catalog name, a .gguf file, or the server's model name")
    api_key: SecretStr | None = Field(None, description="key for the endpoint")
    proposer_api_key: SecretStr | None = Field(None, description="key for the model that proposes (improve)")
    task: str = Field("sentiment", description="built-in task name or a task file")
    keywords: bool = Field(True, description="ask for keywords; without, one token a comment")
    wire: Literal["auto", "compact", "json", "free"] = Field("auto", description="answer format on the wire")

    concurrency: int | None = Field(None, ge=1, le=4096, description="requests in flight; none: found by measuring")
    timeout: float = Field(300.0, gt=0, description="seconds that one request may take")
    attempts: int = Field(4, ge=1, le=20, description="tries of one request, the first included")

    cache: str = Field("sqlite", description="sqlite, sqlite:PATH, redis://HOST:PORT/DB, or none")
    cache_ttl: int | None = Field(None, ge=1, description="seconds a Redis entry lives; none: for ever")

    max_comment_chars: int = Field(3000, ge=50, description="longer comments are shortened from the middle")
    max_raw_chars: int = Field(1_000_000, ge=1000, description="longer comments are refused, row by row")
    long: Literal["split", "whole"] | None = Field(
        None, description="long comments part by part, or whole as far as the engine allows; none: shortened"
    )
    redact: bool = Field(False, description="mask phone, ID-card and card numbers, e-mail, house numbers")
    review_below: float = Field(0.7, ge=0, le=1, description="confidence under which needs_review is set")

    calibration: str = Field("auto", min_length=1, description="auto, none, or one by file, name or id")

    threads: int | None = Field(None, ge=1, description="CPU threads of the embedded engine; none: all cores")
    slots: int = Field(16, ge=1, le=256, description="comments that the embedded engine works on at once, at most")
    memory_gb: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="GiB that the embedded engine may take; none: most of what is free"
    )

    gpu_layers: int | None = Field(
        None,
        ge=0,
        description="layers of the embedded model on a GPU; none: as many as fit, if there is one",
    )

    models_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reviewmill") / "models",
        description="where model files are kept",
    )
    calibrations_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reviewmill") / "calibrations",
        description="where your own calibrations are kept",
    )
    cache_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("reviewmill"),
        description="where the SQLite cache and what was learned of endpoints are kept",
    )
    state_dir: Path = Field(
        default_factory=lambda: platformdirs.user_state_path("reviewmill"),
        description="where journals of runs that write to the screen are kept",
    )

    engine_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("reviewmill") / "engine",
        description="where `reviewmill engine install` puts vLLM",
    )

    service: ServiceSettings = Field(default_factory=ServiceSettings, description="see `ServiceSettings`")
    chat: ChatSettings = Field(default_factory=ChatSettings, description="see `ChatSettings`")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, which wins over the file."""
        path = config_file()
        file = (TomlConfigSettingsSource(settings_cls, path),) if path else ()
        return (init_settings, env_settings, *file)


def load_settings(**arguments: Any) -> Settings:
    """Read the settings; arguments that are None count as not given.

    Raises:
        SettingsError: a value is malformed, or a key is unknown; the message names each.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        where = config_file()
        raise SettingsError(
            "These settings are not valid:\n" + "\n".join(lines),
            hint=f"They come from arguments, REVIEWMILL_* variables{f' or {where}' if where else ''}.",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config_file()} is not valid TOML: {error}", hint="Correct that line.") from None
