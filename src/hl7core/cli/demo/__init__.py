"""The demo's simulated lab: analyzers, a LIS, a receiver of sessions."""
