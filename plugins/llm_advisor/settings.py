"""Settings of the language model: read from the environment, prefix `PLANPROOF_LLM_`."""

from __future__ import annotations

import hashlib
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from optimizer.errors import InputError
from optimizer.settings import secret_folders

Provider = Literal["openai", "azure", "github", "ollama", "vllm"]
StructuredOutput = Literal["auto", "json_schema", "json_object", "text"]

PREFIX = "PLANPROOF_LLM_"
_BASE_URLS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    "github": "https://models.github.ai/inference",
    "ollama": "http://localhost:11434/v1",
    "vllm": "http://localhost:8000/v1",
}
#: Those that answer nobody without a key.
_KEYED = frozenset({"openai", "azure", "github"})
#: Those that know the limit of an answer by its newer name.
_COMPLETION_TOKENS = frozenset({"openai", "azure"})


class LlmSettings(BaseSettings):
    """How to reach a model and what it may cost. Times are milliseconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        secrets_dir=secret_folders(),
    )

    model: str | None = Field(None, description="Name of the model; without it nothing is asked.")
    provider: Provider = Field("openai", description="Whose endpoint it is; sets what differs between them.")
    base_url: str | None = Field(None, description="Address of the endpoint, where it is not the provider's usual one.")
    api_key: SecretStr | None = Field(None, description="Key for the endpoint.")
    api_version: str = Field("2024-10-21", description="Azure OpenAI only: version of its interface.")
    deployment: str | None = Field(None, description="Azure OpenAI only: the deployment, where not named as the model.")
    timeout_ms: int = Field(30_000, gt=0, description="Limit for one request to the model, tries included.")
    retries: int = Field(2, ge=0, le=5, description="Further tries after 429, 5xx and lost connections, with backoff.")
    max_tokens: int = Field(2_000, ge=200, description="Most tokens of one answer.")
    budget_tokens: int = Field(20_000, ge=500, description="Most tokens for one optimization, prompts included.")
    budget_ms: int = Field(45_000, gt=0, description="Most time for one optimization, both rounds together.")
    temperature: float | None = Field(None, ge=0, le=2, description="Sent if set; some models accept only their own.")
    seed: int | None = Field(None, description="Sent if set; asks the model for the same answer each time.")
    structured_output: StructuredOutput = Field(
        "auto", description="How the answer's form is asked for; auto tries the strictest that the endpoint takes."
    )
    redact: bool = Field(True, description="Replace literals by placeholders before anything leaves.")

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("not an http or https address")
            try:
                _ = parts.port
            except ValueError:
                raise ValueError("the port is not a number up to 65535") from None
        return value

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("!" <= char <= "~" for char in value.get_secret_value()):
            raise ValueError("a key is printable ASCII without spaces")
        return value

    @classmethod
    def read(cls) -> Self:
        """Read the environment.

        Errors: `InputError` that names the settings that are wrong or missing, and no values.
        """
        try:
            settings = cls()
        except ValidationError as error:
            wrong = "; ".join(f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise InputError(f"the model's settings are wrong: {wrong}") from None
        missing = settings._missing()
        if missing:
            wanted = " and ".join(missing)
            raise InputError(f"no model is configured: set {wanted}, or leave the model out (docs/llm.md has examples)")
        return settings

    @classmethod
    def identity(cls) -> str:
        """A short text that differs when answers may; no secret can be read from it. Empty without a model."""
        try:
            settings = cls()
        except ValidationError:
            return ""
        if not settings.model:
            return ""
        kept = settings.model_dump(exclude={"api_key", "base_url"}) | {"host": settings.host}
        return hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:16]

    @property
    def endpoint(self) -> str:
        """The address that requests go to."""
        return self.base_url or _BASE_URLS.get(self.provider, "")

    @property
    def host(self) -> str:
        """The address for people: host and port, without path, user and password."""
        parts = urlsplit(self.endpoint)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    @property
    def limit_name(self) -> str:
        """What the provider calls the most tokens of an answer."""
        return "max_completion_tokens" if self.provider in _COMPLETION_TOKENS else "max_tokens"

    def _missing(self) -> list[str]:
        missing = []
        if not self.model:
            missing.append(f"{PREFIX}MODEL")
        if not self.endpoint:
            missing.append(f"{PREFIX}BASE_URL")
        # An endpoint of one's own may well ask for no key.
        if self.api_key is None and self.provider in _KEYED and (self.base_url is None or self.provider == "azure"):
            missing.append(f"{PREFIX}API_KEY")
        return missing
