"""Command-line apps, one verb each: prune, transfer, report, pipeline."""
