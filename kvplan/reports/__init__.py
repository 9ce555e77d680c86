"""Floor 5: a result in, text out. Nothing is computed here."""
