"""The command line: data on stdout, log on stderr, exit codes that scripts may rely on."""
