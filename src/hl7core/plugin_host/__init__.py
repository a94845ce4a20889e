"""The life of plugins: found, loaded, switched on and off, and called; each call guarded, timed and watched."""
