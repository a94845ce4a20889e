"""rest_destination is a destination as everybody else's, whatever the receiver takes at a time."""

from pydantic import SecretStr

from hl7core.testing import DestinationContract
from hl7core_plugins.rest_destination import RestDestination, RestSettings

SECRET = "Bearer SECRET-CANARY-8f3a"


class TestRestDestination(DestinationContract):
    secrets = (SECRET, "SECRET-CANARY")

    def make_destination(self):
        return RestDestination()

    def settings_for(self, receiver, timeout):
        return RestSettings(endpoint=receiver.url, timeout=timeout, auth_header=SecretStr(SECRET))


class TestRestDestinationWithGroups(TestRestDestination):
    def settings_for(self, receiver, timeout):
        return super().settings_for(receiver, timeout).model_copy(update={"batch_size": 10})
