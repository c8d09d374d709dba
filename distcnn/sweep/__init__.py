"""What a sweep is and decides: its space, search, schedule and ledger. Neither torch nor ray."""
