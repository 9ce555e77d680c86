"""Floor 4: pure functions over core values that answer the commands' questions."""
