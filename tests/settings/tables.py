"""A plugin's table, and what reading the settings comes to."""

import pytest
from pydantic import Field, SecretStr

from hl7core.contract import PluginSettings
from hl7core.errors import SettingsError
from hl7core.settings.reading import read
from hl7core.settings.validation import validate_table


class Rest(PluginSettings):
    """A table with one option of each kind."""

    endpoint: str = Field("", description="Where to.")
    auth_header: SecretStr = Field(SecretStr(""), description="Sent with each request.")
    concurrency: int = Field(2, ge=1, le=16, description="At once.")
    timeout: float = Field(30.0, gt=0, description="Seconds.")
    backlog: bool = Field(True, description="Old ones too.")
    headers: dict[str, str] = Field(default_factory=dict, description="More of them.")


def problems(file):
    with pytest.raises(SettingsError) as caught:
        read(file)
    return caught.value.problems


def rest(settings):
    return validate_table(
        Rest,
        "plugins.rest",
        settings.plugins["rest"],
        settings.environment,
        settings.origins,
    )
