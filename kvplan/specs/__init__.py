"""Floor 3: the outside world's words become core values. The only home of pydantic and YAML."""
