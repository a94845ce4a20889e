"""The engine: the only rooms that own threads and tasks.  What it holds in memory survives any plugin.

``hl7core.engine.engine.Engine`` puts it together, ``hl7core.engine.client.ControlClient`` speaks to one that runs.
"""
