"""The bundled plugins: a folder is an entry point is a table ``[plugins.NAME]``.  They use the public door alone."""
