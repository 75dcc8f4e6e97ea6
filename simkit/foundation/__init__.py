"""What knows nothing of chips or models: units, errors with file and line, YAML with positions, files in and out."""
