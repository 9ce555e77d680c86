"""Beside the floors: the only folder where torch and transformers are imported. Nothing below ``cli`` imports it."""
