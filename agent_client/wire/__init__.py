"""The service's answers as typed values: parsed from JSON, tolerant of what a newer service adds."""
