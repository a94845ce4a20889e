"""The engine: the only rooms that own threads and tasks.  What it holds in memory survives any plugin.

``hl7core.engine.engine.Engine`` assembles it; ``hl7core.engine.control.client.ControlClient`` talks to a running one.
"""
