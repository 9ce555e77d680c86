"""Floor 6: one file per command; options in ``options.py``; errors are caught in ``app.py`` and nowhere else."""
