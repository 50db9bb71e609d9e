"""The command ``finepruning``, one file a subcommand: a thin user of what the package makes public.
Nothing heavy is imported before there is work to do."""
