"""The plugin host: finds, loads, enables, disables and calls plugins; each call is guarded and watched."""
