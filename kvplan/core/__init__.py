"""Floor 1: frozen values and pure functions, standard library only."""
