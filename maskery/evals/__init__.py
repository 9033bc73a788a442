"""Something trained -> {name: number}. No training in here."""
