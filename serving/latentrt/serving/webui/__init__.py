"""What AUTOMATIC1111's web UI has that a job has not: its fields, options and texts."""
