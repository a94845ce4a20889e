"""What all tests have in common."""

from hypothesis import HealthCheck, settings

# A machine that stalls for a second says nothing about a test: no promise here is about speed.
settings.register_profile("anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anywhere")
